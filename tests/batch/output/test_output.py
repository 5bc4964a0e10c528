"""OUTPUT: what is refused before anything is done, and the file that appears in one step."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from openllama_cli.batch.journal.disk import write_error
from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.lock import output_lock
from openllama_cli.batch.output.output import OutputFiles, check_output, open_journal, write_output
from openllama_cli.errors import OlcError, UsageError

ROOT = Path(__file__).parents[3]
HEADER = {"input": {"sha256": "aa"}}


def filled(files: OutputFiles, codes: list[str | None], **how: bool) -> Journal:
    """A journal with all rows finished, the last first."""
    journal = open_journal(files, HEADER, len(codes), **how)
    for index in reversed(range(len(codes))):
        if not journal.done(index):
            journal.append(index, codes[index], b'{"index": %d}' % index)
    return journal


@pytest.fixture
def files(tmp_path: Path) -> OutputFiles:
    return OutputFiles.of(tmp_path / "out.jsonl")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_text('{"prompt": "x"}\n')
    return file


def refused(path: Path, source: Path | None, *, restart: bool = False) -> UsageError:
    with pytest.raises(UsageError) as error:
        check_output(path, source, restart=restart)
    assert "\n" not in error.value.cause + error.value.remedy
    return error.value


# Before the model is loaded.


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
    assert "too long" in refused(tmp_path / ("x" * (longest - 11)), source).cause
    files = check_output(tmp_path / ("x" * (longest - 12)), source)
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


# Writing it.


def test_the_output_has_the_rows_in_order_and_the_journal_shrinks_to_a_record_of_it(files: OutputFiles) -> None:
    with filled(files, [None] * 100) as journal:
        written = write_output(journal, files.output)
    content = files.output.read_bytes()
    assert content == b"".join(b'{"index": %d}\n' % index for index in range(100))
    assert (written.rows, written.bytes, written.sha256) == (100, len(content), hashlib.sha256(content).hexdigest())
    assert files.journal.stat().st_size < 400
    with open_journal(files, HEADER, 100) as journal:
        assert journal.complete
        assert journal.output == written


def test_a_complete_journal_that_lost_all_but_its_header_is_not_done_again_unasked(files: OutputFiles) -> None:
    with filled(files, [None] * 3) as journal:
        write_output(journal, files.output)
    whole = files.journal.read_bytes()
    files.journal.write_bytes(whole[: whole.index(b"\n") + 1])
    with pytest.raises(UsageError, match="has no rows") as refused:
        open_journal(files, HEADER, 3)
    assert refused.value.code == "journal_damaged"
    # A run that was told to start over, and was stopped before its first row, goes on.
    open_journal(files, HEADER, 3, restart=True).close()
    with filled(files, [None] * 3) as journal:
        write_output(journal, files.output)
    assert b"over" not in files.journal.read_bytes()


def test_failed_rows_keep_the_journal_so_that_they_can_be_retried(files: OutputFiles) -> None:
    with filled(files, [None, "out_of_memory", None]) as journal:
        write_output(journal, files.output)
    with open_journal(files, HEADER, 3) as journal:
        assert not journal.complete
        assert journal.counts.by_code == {"out_of_memory": 1}
    with open_journal(files, HEADER, 3, retry_errors=True) as journal:
        assert [journal.done(index) for index in range(3)] == [True, False, True]
        journal.append(1, None, b'{"again": 1}')
        write_output(journal, files.output)
        assert journal.complete
    assert files.output.read_bytes() == b'{"index": 0}\n{"again": 1}\n{"index": 2}\n'


def test_an_output_that_was_removed_is_made_again(files: OutputFiles) -> None:
    with filled(files, [None, None]) as journal:
        write_output(journal, files.output)
    files.output.unlink()
    with open_journal(files, HEADER, 2) as journal:
        assert not journal.complete
        assert journal.counts.done == 0


@pytest.mark.parametrize("change", [b"", b'{"index": 7}\n{"index": 1}\n', b'{"index": 0}\n{"index": 1}\nmore\n'])
def test_a_finished_output_that_was_changed_is_not_overwritten(files: OutputFiles, change: bytes) -> None:
    with filled(files, [None, None]) as journal:
        write_output(journal, files.output)
    files.output.write_bytes(change)
    with pytest.raises(UsageError, match="was changed after it was completed") as error:
        open_journal(files, HEADER, 2)
    assert error.value.code == "output_changed"
    assert files.output.read_bytes() == change
    with open_journal(files, HEADER, 2, restart=True) as journal:
        assert journal.counts.done == 0


def test_a_finished_output_is_not_made_again_because_its_journal_is_damaged(files: OutputFiles) -> None:
    with filled(files, [None, None]) as journal:
        write_output(journal, files.output)
    sound = files.journal.read_bytes()
    for damaged in (sound[:-1], sound[:-30] + b"?" + sound[-29:]):
        files.journal.write_bytes(damaged)
        with pytest.raises(UsageError, match="has no rows") as error:
            open_journal(files, HEADER, 2)
        assert "--restart" in error.value.remedy


def test_a_damaged_journal_with_rows_left_goes_on_beside_an_older_output(files: OutputFiles) -> None:
    with filled(files, [None, "out_of_memory"]) as journal:
        write_output(journal, files.output)
    files.journal.write_bytes(files.journal.read_bytes()[:-1])
    with open_journal(files, HEADER, 2) as journal:
        assert [journal.done(index) for index in range(2)] == [False, True]


def test_every_step_is_on_the_disk_before_the_next_relies_on_it(files: OutputFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    flush, rename = os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        names = [file.name for file in (files.output.parent, *files.output.parent.iterdir()) if file.stat().st_ino == inode]
        steps.append("folder" if names == [files.output.parent.name] else names[0].removeprefix("out.jsonl"))
        flush(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        steps.append(f"{self.name} → {target.name}".replace("out.jsonl", ""))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", replaced)
    with filled(files, [None, None]) as journal:
        write_output(journal, files.output)
    begun = [".journal.tmp", ".journal.tmp → .journal", "folder"]
    assert steps == [*begun, ".journal", ".tmp", ".tmp → ", "folder", *begun]


def test_the_target_of_a_link_is_replaced_and_shares_one_journal(tmp_path: Path, source: Path) -> None:
    (tmp_path / "data").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "data" / "real.jsonl")
    files = check_output(link, source)
    with filled(files, [None]) as journal:
        write_output(journal, link)
    assert link.is_symlink()
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == ["real.jsonl", "real.jsonl.journal"]


def test_an_interrupted_write_leaves_the_older_output(files: OutputFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    files.output.write_bytes(b"older\n")
    with filled(files, [None] * 10, restart=True) as journal:
        lines = iter(list(journal.lines())[:5])

        def interrupted() -> Iterator[bytes]:
            yield from lines
            raise KeyboardInterrupt

        monkeypatch.setattr(journal, "lines", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_output(journal, files.output)
    assert files.output.read_bytes() == b"older\n"
    assert not files.temporary.exists()


@pytest.mark.parametrize(
    ("number", "folder", "code", "advice"),
    [
        (errno.ENOSPC, ".", "disk_full", "free some space"),
        (errno.EDQUOT, ".", "disk_full", "remove some of your files"),
        (errno.EFBIG, ".", "disk_full", "ulimit -f unlimited"),
        (errno.EIO, ".", "disk_error", "check the disk"),
        (errno.ENAMETOOLONG, ".", "disk_error", "shorter name"),
        (errno.EROFS, ".", "disk_error", "permissions"),
        (errno.EACCES, ".", "disk_error", "permissions"),
        (errno.ENOENT, "gone", "folder_gone", "move or mount it back"),
        (errno.EIO, "gone", "folder_gone", "move or mount it back"),
    ],
)
def test_every_refusal_of_a_disk_says_what_to_do(tmp_path: Path, number: int, folder: str, code: str, advice: str) -> None:
    error = write_error(OSError(number, os.strerror(number)), tmp_path / folder / "out.jsonl")
    assert error.code == code
    assert advice in error.remedy
    assert "out.jsonl" in error.cause
    assert "\n" not in error.cause + error.remedy
