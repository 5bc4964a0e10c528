"""Where OUTPUT may be: found out before a model is loaded, and nothing is left behind by it."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.lock import output_lock
from openllama_cli.batch.output.output import OutputFiles, check_output, write_output
from openllama_cli.errors import OlcError, UsageError
from tests.support.batches import HEADER, filled

ROOT = Path(__file__).parents[3]


def refused(path: Path, source: Path | None, *, restart: bool = False) -> UsageError:
    with pytest.raises(UsageError) as error:
        check_output(path, source, restart=restart)
    assert "\n" not in error.value.cause + error.value.remedy
    return error.value


def test_a_new_output_is_fine_and_nothing_is_left_behind(tmp_path: Path, source: Path) -> None:
    files = check_output(tmp_path / "out.jsonl", source)
    assert files.output == tmp_path / "out.jsonl"
    assert list(tmp_path.iterdir()) == [source]


def test_the_output_cannot_be_the_input_by_any_name(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "twice.jsonl").symlink_to(tmp_path / "folder" / "link.jsonl")
    monkeypatch.chdir(tmp_path)
    names = ("in.jsonl", "./in.jsonl", "folder/in.jsonl", "link.jsonl", "hard.jsonl", "twice.jsonl")
    for output in names:
        for restart in (False, True):
            assert refused(Path(output), source, restart=restart).code == "output_is_input"
        assert refused(source, Path(output)).code == "output_is_input"


@pytest.mark.parametrize("suffix", [".journal", ".lock", ".tmp"])
def test_the_input_cannot_be_a_file_that_olc_keeps_beside_the_output(tmp_path: Path, source: Path, suffix: str) -> None:
    beside = source.rename(tmp_path / f"out.jsonl{suffix}")
    assert refused(tmp_path / "out.jsonl", beside, restart=True).code == "output_is_input"


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("no such/out.jsonl", "no_folder", "no such, does not exist"),
        ("link.jsonl", "no_folder", "gone, does not exist"),
        ("in.jsonl/out.jsonl", "no_folder", "is not a folder"),
        (".", "output_kind", "is a folder"),
        ("pipe", "output_kind", "is a device or a pipe"),
        ("/dev/null", "output_kind", "is a device or a pipe"),
        ("/", "output_kind", "is a folder"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, source: Path, name: str, code: str, said: str) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "gone" / "out.jsonl")
    os.mkfifo(tmp_path / "pipe")
    error = refused(tmp_path / name, source, restart=name == "/dev/null")
    assert error.code == code
    assert said in error.cause
    assert "no such" not in name or error.remedy == f"create it first: mkdir -p '{tmp_path}/no such'"


def test_a_file_that_olc_did_not_make_is_not_overwritten_without_restart(files: OutputFiles, source: Path) -> None:
    files.output.write_text("precious")
    error = refused(files.output, source)
    assert error.code == "output_exists"
    assert "--restart" in error.remedy
    check_output(files.output, source, restart=True)
    with filled(files, [None], restart=True) as journal:
        check_output(files.output, source)
    assert journal.counts.done == 1
    assert files.output.read_text() == "precious"


def test_a_name_too_long_for_the_files_beside_it_is_refused(tmp_path: Path, source: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    assert "too long" in refused(tmp_path / ("x" * (longest - 15)), source).cause
    files = check_output(tmp_path / ("x" * (longest - 16)), source)
    with output_lock(files.output), filled(files, [None]) as journal:
        write_output(journal, files.output)
    assert files.output.exists()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which not even root can make a file."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.run([chattr, "+i", folder], capture_output=True).returncode:
        pytest.skip("root writes anywhere, and this file system has no immutable folders")
    yield folder
    subprocess.run([chattr, "-i", folder], check=True)


def test_a_read_only_folder_is_refused(read_only: Path, source: Path) -> None:
    output = read_only / "out.jsonl"
    error = refused(output, source)
    assert error.code == "output_unwritable"
    assert error.cause.startswith(f"cannot write out.jsonl in {read_only}: ")
    with pytest.raises(UsageError, match=r"out\.jsonl\.lock cannot be written"), output_lock(output):
        pytest.fail("locked")
    with pytest.raises(OlcError, match=r"out\.jsonl\.journal cannot be written"):
        Journal.open(OutputFiles.of(output).journal, HEADER, 1)


AS_NOBODY = """
import os, sys
from pathlib import Path
from openllama_cli.batch.output.lock import output_lock
from openllama_cli.batch.output.output import check_output
from openllama_cli.errors import UsageError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for attempt in (lambda: check_output(Path(sys.argv[1]), None), lambda: output_lock(Path(sys.argv[1])).__enter__()):
    try:
        attempt()
    except UsageError as error:
        print(error.code, error.cause)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_folder_of_another_user_is_refused(mode: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(mode)
        command = [sys.executable, "-c", AS_NOBODY, str(folder / "out.jsonl")]
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert [line.split()[0] for line in run.stdout.splitlines()] == ["output_unwritable"] * 2, run.stderr
    assert run.stdout.count("Permission denied") == 2


def test_the_check_leaves_nothing_even_when_it_is_killed(tmp_path: Path) -> None:
    """The file that it writes has no name by then."""
    killed = "import os, signal; os.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    checked = f"from pathlib import Path\nfrom openllama_cli.batch.output.output import check_output\n{killed}"
    command = [sys.executable, "-c", f"{checked}check_output(Path({str(tmp_path / 'out.jsonl')!r}), None)"]
    assert subprocess.run(command, cwd=ROOT).returncode == -9
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("without", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_without_nameless_files_is_checked_too(
    files: OutputFiles, monkeypatch: pytest.MonkeyPatch, without: int
) -> None:
    opened = os.open

    def no_nameless(path: object, flags: int, *mode: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(without, "no")
        return opened(path, flags, *mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", no_nameless)
    check_output(files.output, None)
    assert not list(files.output.parent.iterdir())
