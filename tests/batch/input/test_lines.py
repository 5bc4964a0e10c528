"""Lines of a file: where they end, and that neither a long file nor a long line fills the memory; stdin kept in a file."""

import hashlib
import io
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.batch.input.lines import BOM, Line, content, open_input, read_lines, spool
from openllama_cli.errors import OlcError, UsageError


def lines_of(folder: Path, data: bytes, limit: int = 1000) -> list[Line]:
    path = folder / "input"
    path.write_bytes(data)
    with open_input(path) as file:
        return list(read_lines(file, limit))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (BOM, []),
        (b"\n", [b""]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\nb", [b"a", b"b"]),
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (BOM + b"a\n", [b"a"]),
        (b"a\n" + BOM + b"b\n", [b"a", BOM + b"b"]),
        (b"a\n\n\nb\n", [b"a", b"", b"", b"b"]),
        (b"a\rb\x0bc\x0c\x1c\n", [b"a\rb\x0bc\x0c\x1c"]),
        ("a\u2028b\u0085c\n".encode(), ["a\u2028b\u0085c".encode()]),
        (b"a\x00b\n", [b"a\x00b"]),
        (b"a\r", [b"a\r"]),
    ],
)
def test_a_line_ends_at_lf_or_crlf_and_nowhere_else(tmp_path: Path, data: bytes, expected: list[bytes]) -> None:
    lines = lines_of(tmp_path, data)
    assert [content(line.data) for line in lines] == expected
    assert [line.number for line in lines] == list(range(1, len(expected) + 1))


@given(data=st.binary(max_size=200) | st.text("a\r\n", max_size=60).map(str.encode), limit=st.integers(0, 12))
def test_lines_are_complete_exactly_up_to_the_limit(tmp_path_factory: pytest.TempPathFactory, data: bytes, limit: int) -> None:
    lines = lines_of(tmp_path_factory.getbasetemp(), data, limit)
    expected = data.removeprefix(BOM).split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert len(lines) == len(expected)
    for number, (line, text) in enumerate(zip(lines, expected, strict=True)):
        last = number == len(expected) - 1
        text = text if last and not data.endswith(b"\n") else text.removesuffix(b"\r")
        assert line.complete == (len(text) <= limit)
        assert not line.complete or content(line.data) == text


def test_a_line_beyond_the_limit_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "input"
    with path.open("wb") as file:
        file.write(b"first\n")
        file.seek(64 * 2**20, 1)  # a hole in the file: one line of NULs
        file.write(b"\nlast\n")
    tracemalloc.start()
    with open_input(path) as file:
        lines = list(read_lines(file, 2**20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(line.number, line.complete) for line in lines] == [(1, True), (2, False), (3, True)]
    assert len(lines[1].data) < 10_000
    assert peak < 4 * 2**20


@given(data=st.binary(max_size=5000))
def test_the_bytes_read_are_shown_once_and_in_order(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "shown"
    path.write_bytes(data)
    digest = hashlib.sha256()
    with open_input(path, digest.update) as file:
        for _ in read_lines(file, 10):
            pass
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["missing", "file/below", "folder", "nul\x00", "long" * 100])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot read"), open_input(tmp_path / name):
        pass


def test_a_file_that_fails_while_it_is_read_is_no_bug() -> None:
    # Linux lets this file be opened, and refuses to read what is at its beginning.
    path = Path("/proc/self/mem")
    if not path.exists():
        pytest.skip("needs /proc")
    with pytest.raises(OlcError, match="reading /proc/self/mem failed") as failure, open_input(path) as file:
        list(read_lines(file, 10))
    assert failure.value.exit_code == 1


# -- standard input, kept in a file ------------------------------------------------------------------------------------


def test_an_input_is_kept_to_the_byte_and_replaces_an_earlier_one_unless_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl.input"
    for data, kept in ((b"", b""), (b"first", b"first"), (big := os.urandom(3_000_001), big), (b"", big), (b"last", b"last")):
        assert spool(io.BytesIO(data), path) == len(data)
        assert path.read_bytes() == kept
        assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_no_bug(tmp_path: Path) -> None:
    with pytest.raises(OlcError, match="No such file") as failure:
        spool(io.BytesIO(b"x"), tmp_path / "missing" / "input")
    assert failure.value.exit_code == 1


def test_an_input_larger_than_may_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"earlier")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OlcError, match="File too large"):
            spool(io.BytesIO(b"x" * 200_000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from openllama_cli.batch.input.lines import spool;"
        "print(spool(sys.stdin.buffer, Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, tmp_path / "input"]
    run = subprocess.run(command, input=b"a\n" * 200_000, capture_output=True, timeout=60)
    assert run.stdout == b"400000\n"
    assert (tmp_path / "input").read_bytes() == b"a\n" * 200_000
