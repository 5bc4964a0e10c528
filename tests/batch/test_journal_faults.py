"""Journals that are torn and corrupted, processes that are killed, disks that are full, folders that go away."""

import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllama_cli.batch.journal import Journal
from openllama_cli.batch.output import open_journal, write_output
from openllama_cli.batch.output_files import OutputFiles
from openllama_cli.errors import OlcError
from tests.batch.dying_writer import HEADER, expected, line

ROOT = Path(__file__).parent.parent.parent
ROWS = 200


def writer(output: Path, *, seed: int = 0, point: str = "never", at: int = 0, rows: int = ROWS) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.batch.dying_writer", str(output), str(rows), str(seed), point, str(at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


def run_writer(output: Path, **choice: Any) -> tuple[list[int], int]:
    """The rows that a writer process said were in the journal, and how it ended."""
    with writer(output, **choice) as process:
        said, errors = process.communicate(timeout=60)
    assert not errors, errors.decode()
    return [int(word) for word in said.split()], process.returncode


def done(output: Path, rows: int = ROWS) -> set[int]:
    with Journal.open(OutputFiles.of(output).journal, HEADER, rows) as journal:
        assert journal.damaged == 0
        return {index for index in range(rows) if journal.done(index)}


# Kills.


@pytest.mark.parametrize("point", ["before append", "amid append", "after append"])
@pytest.mark.parametrize("at", [1, 64, 65, ROWS])
def test_a_kill_at_an_append_loses_only_that_row(tmp_path: Path, point: str, at: int) -> None:
    output = tmp_path / "out.jsonl"
    said, code = run_writer(output, point=point, at=at)
    assert code == -9
    assert len(said) == at - 1
    finished = done(output)
    assert set(said) <= finished
    assert len(finished) == (at if point == "after append" else at - 1)
    more, code = run_writer(output, seed=1)
    assert code == 0
    assert sorted(more) == sorted(set(range(ROWS)) - finished)
    assert output.read_bytes() == expected(ROWS)


@pytest.mark.parametrize(
    ("point", "at", "written"),
    [
        ("before rename of .journal", 0, False),  # of a new journal
        ("after rename of .journal", 0, False),
        ("amid output", 1, False),
        ("amid output", ROWS // 2, False),
        ("before rename of .jsonl", 0, False),
        ("after rename of .jsonl", 0, True),
    ],
)
def test_a_kill_around_the_output_leaves_it_absent_or_whole(tmp_path: Path, point: str, at: int, written: bool) -> None:
    output = tmp_path / "out.jsonl"
    said, code = run_writer(output, point=point, at=at)
    assert code == -9
    assert output.exists() == written
    if written:
        assert output.read_bytes() == expected(ROWS)
    more, code = run_writer(output)
    assert code == 0
    assert sorted(said + more) == list(range(ROWS))
    assert output.read_bytes() == expected(ROWS)
    with Journal.open(OutputFiles.of(output).journal, HEADER, ROWS) as journal:
        assert journal.complete
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.journal"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_the_journal_is_compacted_keeps_output_and_rows(tmp_path: Path, when: str) -> None:
    output = tmp_path / "out.jsonl"
    with Journal.open(OutputFiles.of(output).journal, HEADER, ROWS) as journal:
        for index in range(ROWS):
            journal.append(index, None, line(index))
    said, code = run_writer(output, point=f"{when} rename of .journal")
    assert (said, code) == ([], -9)
    assert output.read_bytes() == expected(ROWS)
    assert run_writer(output) == ([], 0)
    assert output.read_bytes() == expected(ROWS)


def test_kills_at_random_moments_lose_and_repeat_no_row(tmp_path: Path) -> None:
    chance = random.Random(4)
    rows = 3000
    killed, seen = 0, set[int]()
    output = tmp_path / "out.jsonl"
    for attempt in range(40):
        with writer(output, seed=attempt, rows=rows) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(400)):
                process.stdout.readline()
            time.sleep(chance.random() * 0.003)
            process.kill()
            process.stdout.readline()  # may be cut
            _, errors = process.communicate(timeout=60)
        assert not errors, errors.decode()
        if process.returncode == 0:
            break
        killed += 1
        finished = done(output, rows)
        assert finished >= seen, "a row was lost"
        seen = finished
    while not output.exists():
        assert run_writer(output, seed=99, rows=rows)[1] == 0
    assert killed > 5
    assert output.read_bytes() == expected(rows)


# Damage. Whatever happens to the bytes, no wrong row may come out, and no row may be lost whose bytes are untouched.


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal of 12 rows: 0 to 9 finished in another order, of which 3 and 7 failed and 3 was retried."""
    path = tmp_path_factory.mktemp("journal") / "out.jsonl.journal"
    with Journal.open(path, HEADER, 12) as journal:
        for index in (4, 0, 3, 9, 7, 1, 2, 8, 5, 6):
            journal.append(index, {3: "out_of_memory", 7: "invalid_json"}.get(index), line(index))
    with Journal.open(path, HEADER, 12, retry_errors=True) as journal:
        journal.append(3, None, line(3))
    return path.read_bytes()


def lines_of(content: bytes) -> list[tuple[int, int, int]]:
    """(row, first byte, end) of each line after the header."""
    found, start = [], content.index(b"\n") + 1
    while start < len(content):
        end = content.index(b"\n", start) + 1
        found.append((int(content[start:end].split()[0]), start, end))
        start = end
    return found


def reopen(content: bytes, sound: bytes, touched: range) -> None:
    """Open a damaged journal, check it, and finish it. touched: the bytes of `sound` that were changed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        files = OutputFiles.of(Path(folder) / "out.jsonl")
        files.journal.write_bytes(content)
        if touched.start <= sound.index(b"\n"):
            # The first line was touched: refused, unless what it says is the same.
            try:
                Journal.open(files.journal, HEADER, 12).close()
            except OlcError:
                return
        with Journal.open(files.journal, HEADER, 12) as journal:
            # A line is reached by damage to it or to the newline before it.
            whole = {row for row, start, end in lines_of(sound) if touched.stop < start or touched.start >= end}
            kept = {index for index in range(12) if journal.done(index)}
            assert whole <= kept
            assert kept <= set(range(10))
            for index in set(range(12)) - kept:
                journal.append(index, None, line(index))
            assert list(journal.lines()) == [line(index) for index in range(12)]
        with Journal.open(files.journal, HEADER, 12) as journal:
            assert journal.counts.done == 12
            write_output(journal, files.output)
        assert files.output.read_bytes() == expected(12)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_byte_never_makes_a_wrong_row(sound: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sound) - 1) | st.integers(0, len(sound) - 1).map(lambda n: min(n, 900)))
    byte = sound[place] ^ data.draw(st.integers(1, 255) | st.just(sound[place] ^ 10).filter(bool))
    reopen(sound[:place] + bytes([byte]) + sound[place + 1 :], sound, range(place, place + 1))


def test_no_change_to_a_line_s_own_words_is_believed(sound: bytes) -> None:
    """Index, checksum and code of each line: every byte of them, turned into its neighbours and other digits."""
    for _, start, end in lines_of(sound):
        for place in range(start, sound.index(b"{", start, end)):
            for flip in (1, 2, 4, 8, 16):
                reopen(sound[:place] + bytes([sound[place] ^ flip]) + sound[place + 1 :], sound, range(place, place + 1))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_cut_journal_keeps_the_rows_before_the_cut(sound: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(sound) - 1))
    reopen(sound[:place], sound, range(place, len(sound)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_bytes_put_in_or_taken_out_never_make_a_wrong_row(sound: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sound) - 1))
    stop = data.draw(st.integers(start, min(start + 50, len(sound))))
    put = data.draw(st.binary(max_size=50) | st.just(b"\x00" * 4096) | st.just(sound[start - 40 : start]))
    reopen(sound[:start] + put + sound[stop:], sound, range(max(start - 1, 0), max(stop, start + 1)))


@given(content=st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b'{"olc_journal": 1, ' + tail))
@settings(max_examples=100, deadline=None)
def test_any_other_file_is_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        path.write_bytes(content)
        if content:
            with pytest.raises(OlcError):
                Journal.open(path, HEADER, 12)
            assert path.read_bytes() == content


def test_damage_is_counted_and_a_torn_end_told_apart(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    damaged = bytearray(sound)
    _, start, _ = lines_of(sound)[1]
    damaged[start + 20] ^= 1
    path.write_bytes(damaged + b"11 0bad")
    with Journal.open(path, HEADER, 12) as journal:
        assert (journal.damaged, journal.torn) == (1, True)
        assert not journal.done(0)
    assert path.read_bytes() == damaged


def test_damage_after_opening_is_found_before_it_reaches_the_output(tmp_path: Path) -> None:
    files = OutputFiles.of(tmp_path / "out.jsonl")
    with Journal.open(files.journal, HEADER, 3) as journal:
        for index in range(3):
            journal.append(index, None, line(index))
        with files.journal.open("r+b") as file:
            file.seek(-10, os.SEEK_END)
            file.write(b"x")
        with pytest.raises(OlcError, match="row 2 is damaged"):
            write_output(journal, files.output)
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl.journal"]
    with Journal.open(files.journal, HEADER, 3) as journal:
        assert [journal.done(index) for index in range(3)] == [True, True, False]


# Full disks.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def append_all(journal: Journal, text: bytes) -> OlcError:
    """Append a text as each row, until that is refused."""
    for index in range(journal.rows):
        try:
            journal.append(index, None, text)
        except OlcError as refused:
            return refused
    pytest.fail("nothing was refused")


def test_a_full_disk_stops_the_batch_in_two_lines_and_keeps_the_rows(small_disk: Path) -> None:
    files = OutputFiles.of(small_disk / "out.jsonl")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(150_000))
    text = b'{"text": "%s"}' % (b"x" * 700)
    with Journal.open(files.journal, HEADER, ROWS) as journal:
        full = append_all(journal, text)
        assert full.code == "disk_full"
        assert full.exit_code == 1
        assert f"no space left in {small_disk}" in full.cause
        assert "free some space, then run the same command again" in full.remedy
        finished = journal.counts.done
        assert 0 < finished < ROWS
        assert not journal.done(finished)
        assert files.journal.read_bytes().endswith(b"}\n"), "the line that did not fit was cut off"
        # Space comes back while the process lives, and the journal goes on.
        ballast.unlink()
        journal.append(finished, None, text)
    with Journal.open(files.journal, HEADER, ROWS) as journal:
        assert (journal.counts.done, journal.damaged, journal.torn) == (finished + 1, 0, False)


def test_a_disk_too_full_for_the_output_keeps_journal_and_older_output(small_disk: Path) -> None:
    files = OutputFiles.of(small_disk / "out.jsonl")
    files.output.write_bytes(b"older\n")
    text = b'{"text": "%s"}' % (b"x" * 700)
    with Journal.open(files.journal, HEADER, ROWS) as journal:
        for index in range(ROWS):
            journal.append(index, None, text)
        with pytest.raises(OlcError) as full:
            write_output(journal, files.output)
    assert full.value.code == "disk_full"
    assert files.output.read_bytes() == b"older\n"
    assert sorted(file.name for file in small_disk.iterdir()) == ["out.jsonl", "out.jsonl.journal"]
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    with open_journal(files, HEADER, ROWS) as journal:
        assert journal.counts.done == ROWS
        write_output(journal, files.output)
    assert files.output.read_bytes() == (text + b"\n") * ROWS


def test_a_disk_too_full_for_a_journal_is_told(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while ballast.write(bytes(10_000)) == 10_000:
            pass
    with pytest.raises(OlcError) as full:
        Journal.open(small_disk / "out.jsonl.journal", HEADER, ROWS)
    assert full.value.code == "disk_full"
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]


FILE_SIZE_LIMIT = """
import resource, sys
from pathlib import Path
from openllama_cli.batch.journal import Journal
from openllama_cli.batch.output import write_output
from openllama_cli.errors import OlcError
from tests.batch.dying_writer import HEADER, line
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    with Journal.open(Path(sys.argv[1] + ".journal"), HEADER, 200) as journal:
        for index in range(200):
            if not journal.done(index):
                journal.append(index, None, line(index))
                print(index)
        write_output(journal, Path(sys.argv[1]))
except OlcError as error:
    print(error.code, error.cause, error.remedy, sep="\\n", file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
@pytest.mark.parametrize("limit", [20_000, 20_001, 33_333, 65_536])
def test_a_file_size_limit_cuts_the_row_that_did_not_fit(tmp_path: Path, limit: int) -> None:
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", FILE_SIZE_LIMIT, str(output), str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert run.returncode == 1, run.stderr
    code, cause, remedy = run.stderr.splitlines()
    assert code == "disk_full"
    assert "out.jsonl.journal cannot grow" in cause
    assert "ulimit -f unlimited" in remedy
    journal_file = OutputFiles.of(output).journal
    assert journal_file.stat().st_size < limit
    assert journal_file.read_bytes().endswith(b"\n")
    assert sorted(done(output)) == [int(word) for word in run.stdout.split()]
    assert run_writer(output)[1] == 0
    assert output.read_bytes() == expected(ROWS)


def test_after_a_failed_flush_nothing_is_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl.journal"

    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Journal.open(path, HEADER, ROWS) as journal:
        journal.append(0, None, line(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(OlcError) as failed:
                journal.sync()
        assert failed.value.code == "disk_error"
        assert "check the disk" in failed.value.remedy
        with pytest.raises(OlcError, match="the disk failed"):
            journal.append(1, None, line(1))
    with Journal.open(path, HEADER, ROWS) as journal:
        assert journal.counts.done == 1


# Folders that go away.


@pytest.mark.parametrize("fate", ["removed", "moved", "replaced"])
def test_a_folder_that_vanishes_is_told_at_the_next_flush(tmp_path: Path, fate: str) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    files = OutputFiles.of(folder / "out.jsonl")
    with Journal.open(files.journal, HEADER, ROWS) as journal:
        journal.append(ROWS - 1, None, line(ROWS - 1))
        if fate == "removed":
            shutil.rmtree(folder)
        else:
            folder.rename(tmp_path / "elsewhere")
        if fate == "replaced":
            shutil.copytree(tmp_path / "elsewhere", folder)
        gone = append_all(journal, line(0))
    assert gone.code == "folder_gone"
    assert f"{files.journal} is gone" in gone.cause
    assert "run the same command again" in gone.remedy
    if fate == "moved":
        (tmp_path / "elsewhere").rename(folder)
        assert ROWS - 1 in done(files.output)


def test_a_folder_that_vanishes_before_the_output_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    files = OutputFiles.of(folder / "out.jsonl")
    with Journal.open(files.journal, HEADER, 1) as journal:
        journal.append(0, None, line(0))
        journal.sync()
        shutil.rmtree(folder)
        with pytest.raises(OlcError) as gone:
            write_output(journal, files.output)
    assert gone.value.code == "folder_gone"
