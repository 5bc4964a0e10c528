"""Writing OUTPUT: complete rows in order, in one step, over nothing that it did not make."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from openllama_cli.batch.output.output import OutputFiles, check_output, open_journal, write_output
from openllama_cli.errors import UsageError
from tests.support.batches import HEADER, filled


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
