"""Processes that are killed, disks that are full, folders that go away: real ones. Damaged files: test_damage.py."""

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.output import OutputFiles, open_journal, write_output
from openllama_cli.errors import OlcError
from tests.support.dying_writer import HEADER, expected, line
from tests.support.forked import Forked

ROWS = 200


def writer(
    output: Path, *, seed: int = 0, point: str = "never", at: int = 0, rows: int = ROWS, file_size: int | None = None, **to: int
) -> Forked:
    code = f"from tests.support.dying_writer import main; main({str(output)!r}, {rows}, {seed}, {point!r}, {at}); sys.exit()"
    return Forked(code=code, file_size=file_size, **to)


def run_writer(output: Path, **choice: Any) -> tuple[list[int], int]:
    """The rows that a writer process said were in the journal, and how it ended."""
    process = writer(output, **choice)
    code = process.wait(60)
    assert not process.err, process.err.decode()
    return [int(word) for word in process.out.split()], code


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
    rows = 2000
    killed, seen = 0, set[int]()
    output = tmp_path / "out.jsonl"
    for attempt in range(40):
        reader, said = os.pipe()
        with os.fdopen(reader, "rb") as rows_said, writer(output, seed=attempt, rows=rows, stdout=said) as process:
            os.close(said)
            for _ in range(chance.randrange(400)):
                rows_said.readline()
            time.sleep(chance.random() * 0.003)
            process.kill()
        assert not process.err, process.err.decode()
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


@pytest.mark.parametrize("limit", [20_001, 65_536])
def test_a_file_size_limit_cuts_the_row_that_did_not_fit(tmp_path: Path, limit: int) -> None:
    output = tmp_path / "out.jsonl"
    run = writer(output, file_size=limit)
    assert run.wait() == 1
    refused = run.err.decode()
    assert "out.jsonl.journal cannot grow" in refused
    assert "ulimit -f unlimited" in refused
    journal_file = OutputFiles.of(output).journal
    assert journal_file.stat().st_size < limit
    assert journal_file.read_bytes().endswith(b"\n")
    assert done(output) == {int(word) for word in run.out.split()}
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
    assert f"{files.journal} no longer exists" in gone.cause
    assert "run the same command again" in gone.remedy
    if fate == "moved":
        (tmp_path / "elsewhere").rename(folder)
        assert ROWS - 1 in done(files.output)


def test_what_went_wrong_first_is_what_is_told(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "results.journal", HEADER, 1)
    journal.append(0, None, line(0))
    journal.path.unlink()
    with pytest.raises(KeyboardInterrupt), journal:
        raise KeyboardInterrupt


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
