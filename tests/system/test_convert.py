"""The shell lines that olc prints to convert a file: run as they are printed, under names that need quotes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openllama_cli.batch.input.precheck import precheck
from openllama_cli.batch.input.readers import input_format
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.errors import UsageError
from openllama_cli.system import convert

NAME = "it's $HOME [1] *.jsonl"
ROWS = [{"prompt": "größer"}, {"prompt": "日本"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
WESTERN = "größer\n" * 12


def run(remedy: str, folder: Path, shell: str = "sh") -> list[Path]:
    """Run the command at the end of a remedy; the files that it made."""
    before = set(folder.iterdir())
    tools = (" iconv ", " jq ", f" {sys.executable} ", " tr ")
    start = min(remedy.index(word) for word in tools if word in remedy)
    subprocess.run([shell, "-c", remedy[start:]], cwd=folder, check=True, stdin=subprocess.DEVNULL, timeout=20)
    return sorted(set(folder.iterdir()) - before)


FILES = [
    *[(NAME, LINES.encode(encoding)) for encoding in ("utf-16", "utf-32")],
    *[("-x.txt", WESTERN.encode(encoding)) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1")],
    (NAME, json.dumps(ROWS).encode()),
    (NAME, json.dumps(ROWS, indent=2).encode()),
    ("mac.txt", b"one\rtwo\rthree\r"),
    ("mac.csv", b"prompt,a\rone,1\rtwo,2"),
]


@pytest.mark.parametrize(
    ("name", "data", "with_tools"), [*((*file, True) for file in FILES), *((*file, False) for file in (FILES[0], FILES[7]))]
)
def test_what_a_refused_file_is_told_to_run_makes_one_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, with_tools: bool
) -> None:
    if not with_tools:
        found = shutil.which
        monkeypatch.setattr(shutil, "which", lambda tool: None if tool in ("jq", "iconv") else found(tool))
        monkeypatch.setattr(convert, "_python", lambda: sys.executable)
    monkeypatch.chdir(tmp_path)
    source = Path(name)
    source.write_bytes(data)
    with pytest.raises(UsageError) as refused:
        precheck(source, input_format(source), RowSettings())
    [made] = run(refused.value.remedy, tmp_path)
    summary = precheck(made, input_format(made), RowSettings())
    assert not summary.errors
    assert summary.rows == {"-x.txt": 12, "mac.txt": 3}.get(name, 2)


@pytest.mark.parametrize("shell", [shell for shell in ("bash", "zsh", "fish", "dash") if shutil.which(shell)])
def test_names_are_quoted_for_every_shell_and_nothing_is_overwritten(tmp_path: Path, shell: str) -> None:
    source = tmp_path / NAME
    source.write_bytes(json.dumps(ROWS).encode())
    for count in range(2):
        [made] = run(f" {convert.to_lines(source)}", tmp_path, shell)
        assert made.name == f"it's $HOME [1] *.lines{count or ''}.jsonl"
        assert len(made.read_text().splitlines()) == 2


def test_a_few_bytes_that_are_no_utf8_do_not_condemn_a_file(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_bytes(b"one\nzw\xe9i\n" + b"\xff\n" * 3)
    assert precheck(source, "txt", RowSettings()).errors == {"invalid_utf8": 4}
    source.write_bytes("ü\n".encode() + b"\xff\n" * 30)
    assert precheck(source, "txt", RowSettings()).errors == {"invalid_utf8": 30}
    source.write_bytes(b"a\r\r\rb" + b"x" * 5000 + b"\n")
    assert precheck(source, "txt", RowSettings()).rows == 1


def test_a_file_that_complete_cannot_read_is_converted_likewise(tmp_path: Path) -> None:
    from openllama_cli.commands.shared.prompt_input import read_lines

    source = tmp_path / NAME
    for encoding in ("latin-1", "utf-16"):
        source.write_bytes(WESTERN.encode(encoding))
        with pytest.raises(UsageError) as refused:
            read_lines(str(source))
        [made] = run(refused.value.remedy, tmp_path)
        assert read_lines(str(made)) == ["größer"] * 12
        made.unlink()
