"""The journal without faults of the machine: what is kept, counted, refused and begun anew.

Faults are in test_faults.py, damage in test_damage.py.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.journal import format as journal_format
from openllama_cli.batch.journal.format import OutputRecord
from openllama_cli.batch.journal.journal import Journal
from openllama_cli.errors import UsageError

HEADER: dict[str, Any] = {
    "input": {"sha256": "aa", "format": "jsonl"},
    "model": {"revision": None, "files": {"model.safetensors": {"bytes": 10, "sha256": "bb"}}},
    "tokenizer": {"sha256": "cc"},
    "template": None,
    "options": {"temperature": 0.0, "max_tokens": 64, "stop": ["\n"]},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.journal"


def write(path: Path, rows: int, finished: dict[int, str | None], header: dict[str, Any] = HEADER) -> None:
    with Journal.open(path, header, rows) as journal:
        for index, code in finished.items():
            journal.append(index, code, b'{"index": %d}' % index)


def done(journal: Journal) -> list[int]:
    return [index for index in range(journal.rows) if journal.done(index)]


def test_a_new_journal_has_no_rows(path: Path) -> None:
    with Journal.open(path, HEADER, 3) as journal:
        assert done(journal) == []
        assert (journal.counts.done, journal.counts.failed, journal.counts.by_code) == (0, 0, {})
        assert not journal.complete
        assert (journal.damaged, journal.torn) == (0, False)


def test_finished_rows_are_known_after_reopening_with_their_codes(path: Path) -> None:
    write(path, 5, {3: None, 0: "invalid_json", 4: "invalid_json", 1: "out_of_memory"})
    with Journal.open(path, HEADER, 5) as journal:
        assert done(journal) == [0, 1, 3, 4]
        assert (journal.counts.done, journal.counts.failed) == (4, 3)
        assert journal.counts.by_code == {"invalid_json": 2, "out_of_memory": 1}


def test_lines_come_in_the_order_of_the_input_as_they_were_given(path: Path) -> None:
    lines = [b'{"text": "a \\n b"}', '{"text": "\u2028\r 日本"}'.encode(), b"", b"0 00000000 - {}"]
    with Journal.open(path, HEADER, 4) as journal:
        for index in (2, 0, 3, 1):
            journal.append(index, None, lines[index])
        assert list(journal.lines()) == lines
    with Journal.open(path, HEADER, 4) as journal:
        assert list(journal.lines()) == lines


def test_lines_are_not_given_while_a_row_is_missing(path: Path) -> None:
    write(path, 2, {0: None})
    with Journal.open(path, HEADER, 2) as journal, pytest.raises(ValueError, match="row 1 is not finished"):
        list(journal.lines())


def test_a_finished_row_is_not_taken_twice(path: Path) -> None:
    with Journal.open(path, HEADER, 2) as journal:
        journal.append(1, None, b"{}")
        with pytest.raises(ValueError, match="row 1 is finished already"):
            journal.append(1, "late", b"{}")


@pytest.mark.parametrize(("code", "line"), [(None, b"{}\n{}"), ("two words", b"{}"), ("-", b"{}"), ("", b"{}"), ("ü", b"{}")])
def test_what_would_break_the_format_is_not_written(path: Path, code: str | None, line: bytes) -> None:
    with Journal.open(path, HEADER, 1) as journal, pytest.raises(ValueError, match=r"newline|error code"):
        journal.append(0, code, line)
    assert path.read_bytes().count(b"\n") == 1


def test_retry_errors_runs_failed_rows_again_and_the_later_line_counts(path: Path) -> None:
    write(path, 4, {0: None, 1: "out_of_memory", 2: "invalid_json", 3: None})
    with Journal.open(path, HEADER, 4, retry_errors=True) as journal:
        assert done(journal) == [0, 3]
        assert journal.counts.failed == 0
        journal.append(1, None, b'{"index": 1, "again": true}')
    # The run ended before row 2 was tried again: it stays failed, and can be retried.
    with Journal.open(path, HEADER, 4) as journal:
        assert journal.counts.by_code == {"invalid_json": 1}
        assert list(journal.lines())[1] == b'{"index": 1, "again": true}'
    with Journal.open(path, HEADER, 4, retry_errors=True) as journal:
        assert done(journal) == [0, 1, 3]


def test_restart_begins_anew_whatever_is_there(path: Path) -> None:
    write(path, 4, {0: None, 1: None})
    other = HEADER | {"tokenizer": {"sha256": "dd"}}
    with Journal.open(path, other, 9, restart=True) as journal:
        assert done(journal) == []
    path.write_bytes(b"\x00 no journal at all")
    with Journal.open(path, other, 9, restart=True) as journal:
        assert done(journal) == []


def test_rows_of_another_run_are_refused_by_the_names_of_what_changed(path: Path) -> None:
    write(path, 3, {0: None})
    before = path.read_bytes()
    change = {"options": HEADER["options"] | {"temperature": 0.8}, "template": {"name": "qa", "sha256": "00"}}
    with pytest.raises(UsageError, match=r"no template was used, now one is; --temperature was 0\.0, now 0\.8") as refused:
        Journal.open(path, HEADER | change, 3)
    assert refused.value.code == "journal_mismatch"
    assert "--restart" in refused.value.remedy
    assert path.read_bytes() == before


def test_a_journal_without_rows_is_taken_over_by_another_run(path: Path) -> None:
    write(path, 3, {})
    other = HEADER | {"options": {"temperature": 1.0}}
    write(path, 5, {4: None}, other)
    with Journal.open(path, other, 5) as journal:
        assert done(journal) == [4]


def test_the_same_options_written_otherwise_are_the_same_run(path: Path) -> None:
    write(path, 3, {0: None})
    reordered = dict(reversed(HEADER.items())) | {"options": {"stop": ("\n",), "max_tokens": 64, "temperature": 0.0}}
    with Journal.open(path, reordered, 3) as journal:
        assert done(journal) == [0]


def test_a_journal_of_a_newer_version_is_refused(path: Path) -> None:
    write(path, 1, {0: None})
    header, rows = path.read_bytes().split(b"\n", 1)
    path.write_bytes(json.dumps(json.loads(header) | {"olc_journal": 2}).encode() + b"\n" + rows)
    with pytest.raises(UsageError, match="was written by a newer olc") as refused:
        Journal.open(path, HEADER, 1)
    assert refused.value.code == "journal_newer"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b'{"prompt": "a user\'s own file"}\n', "is not an olc journal"),
        (b"\x00" * 5000, "is not an olc journal"),
        (b"[" * 100_000, "is not an olc journal"),
        (b'{"olc_journal": 1, "rows": 3\n', "has a damaged first line"),
        (b'{"olc_journal": 1, "rows": 3}\n', "has a damaged first line"),
        (b'{"olc_journal": "1", "rows": 3, "crc32": "00000000"}\n', "has a damaged first line"),
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_kept(path: Path, content: bytes, cause: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        Journal.open(path, HEADER, 3)
    assert refused.value.code == "journal_damaged"
    assert cause in refused.value.cause
    assert "--restart" in refused.value.remedy
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    path.touch()
    write(path, 3, {0: None})
    with Journal.open(path, HEADER, 3) as journal:
        assert done(journal) == [0]


def test_finish_replaces_the_rows_by_one_line(path: Path) -> None:
    output = OutputRecord(rows=50, bytes=1234, sha256="ee")
    write(path, 50, dict.fromkeys(range(50)))
    with Journal.open(path, HEADER, 50) as journal:
        assert not journal.complete
        journal.finish(output)
        assert journal.complete
    assert path.read_bytes().count(b"\n") == 2
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208
    with Journal.open(path, HEADER, 50) as journal:
        assert journal.complete
        assert journal.output == output
        assert done(journal) == list(range(50))
        assert (journal.counts.done, journal.counts.failed) == (50, 0)
    with pytest.raises(UsageError, match="belong to a different run"):
        Journal.open(path, HEADER | {"template": "x"}, 50)


@pytest.mark.parametrize("finished", [{0: None}, {0: None, 1: "invalid_json"}])
def test_a_journal_with_failed_or_missing_rows_keeps_its_rows(path: Path, finished: dict[int, str | None]) -> None:
    write(path, 2, finished)
    with Journal.open(path, HEADER, 2) as journal, pytest.raises(ValueError, match="is kept"):
        journal.finish(OutputRecord(2, 1, ""))
    with Journal.open(path, HEADER, 2) as journal:
        assert done(journal) == list(finished)


def test_rows_are_flushed_every_64_and_every_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    flush, now = os.fsync, 0.0
    with Journal.open(path, HEADER, 1000) as journal:
        monkeypatch.setattr(os, "fsync", lambda descriptor: (flushed.append(journal.counts.done), flush(descriptor)))
        monkeypatch.setattr(time, "monotonic", lambda: now)
        for index in range(200):
            journal.append(index, None, b"{}")
        assert flushed == [64, 128, 192]
        now = 0.9
        journal.sync_if_due()
        assert flushed == [64, 128, 192]
        now = 1.0
        journal.sync_if_due()
        journal.append(200, None, b"{}")
        assert flushed == [64, 128, 192, 200]
        now = 2.0
        journal.append(201, None, b"{}")
        journal.sync_if_due()
        journal.append(202, None, b"{}")
    assert flushed == [64, 128, 192, 200, 202, 203]


def test_a_closed_journal_takes_no_rows_and_closes_twice(path: Path) -> None:
    journal = Journal.open(path, HEADER, 2)
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append(0, None, b"{}")


def test_a_million_rows_cost_ten_bytes_each(path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    with Journal.open(path, HEADER, 1_000_000) as journal:
        assert not journal.done(999_999)
        held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 11_000_000


def test_a_line_longer_than_any_row_is_passed_over_without_being_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, 3, {0: None})
    with path.open("ab") as file:
        file.write(b"\x00" * 500_000 + b"\n")
    monkeypatch.setattr(journal_format, "LONGEST_LINE", 1000)
    write(path, 3, {2: None})
    with Journal.open(path, HEADER, 3) as journal:
        assert done(journal) == [0, 2]
        assert journal.damaged == 1


def test_where_rows_were_made_is_kept_run_by_run(path: Path) -> None:
    here, there = {"by": "local", "places": [1]}, {"by": "local", "places": [2]}
    with Journal.open(path, HEADER, 6) as journal:
        journal.begin_run(here)
        journal.append(5, None, b"{}")
        journal.append(4, "out_of_memory", b"{}")
        journal.begin_run(here)
        journal.append(0, None, b"{}")
        assert journal.runs == [{**here, "rows": 3}]
    with Journal.open(path, HEADER, 6, retry_errors=True) as journal:
        assert journal.runs == [{**here, "rows": 2}]
        journal.begin_run(there)
        for index in (1, 2, 3, 4):
            journal.append(index, None, b"{}")
        wanted = [{**here, "rows": 2}, {**there, "rows": 4}]
        assert journal.runs == wanted
        assert [record is not None for _, record in _records(path)] == [True] * 9
        journal.finish(OutputRecord(6, 18, "ee"))
        assert journal.runs == wanted
    assert Journal.peek(path).runs == wanted


def test_of_rows_that_an_earlier_olc_made_nothing_is_known(path: Path) -> None:
    write(path, 3, {0: None})
    with Journal.open(path, HEADER, 3) as journal:
        journal.begin_run({"by": "local"})
        journal.append(1, None, b"{}")
        journal.append(2, None, b"{}")
        assert journal.runs == [{"rows": 1}, {"by": "local", "rows": 2}]


def test_a_journal_that_says_only_where_it_ran_has_no_rows(path: Path) -> None:
    with Journal.open(path, HEADER, 3) as journal:
        journal.begin_run({"by": "local"})
    other = HEADER | {"template": {"name": "qa", "sha256": "dd"}}
    with Journal.open(path, other, 3) as journal:
        assert (journal.counts.done, journal.runs) == (0, [])


def _records(path: Path) -> list[tuple[int, journal_format.Record | None]]:
    with path.open("rb") as file:
        journal_format.read_header(file, path)
        return list(journal_format.read_records(file))
