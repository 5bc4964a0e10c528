"""Journals whose bytes were changed, cut or mixed up.

Whatever happens to them, no wrong row may come out, and no row may be lost whose bytes are untouched.
"""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.output import OutputFiles, write_output
from openllama_cli.errors import OlcError
from tests.support.dying_writer import HEADER, expected, line


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
            assert journal.counts.by_code.keys() <= {"out_of_memory", "invalid_json"}
            for index in set(range(12)) - kept:
                journal.append(index, None, line(index))
            assert list(journal.lines()) == [line(index) for index in range(12)]
        with Journal.open(files.journal, HEADER, 12) as journal:
            assert journal.counts.done == 12
            write_output(journal, files.output)
        assert files.output.read_bytes() == expected(12)


@given(data=st.data())
def test_a_changed_byte_never_makes_a_wrong_row(sound: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(sound) - 1) | st.integers(0, len(sound) - 1).map(lambda n: min(n, 900)))
    byte = sound[place] ^ data.draw(st.integers(1, 255) | st.just(sound[place] ^ 10).filter(bool))
    reopen(sound[:place] + bytes([byte]) + sound[place + 1 :], sound, range(place, place + 1))


def test_no_change_to_a_line_s_own_words_is_believed(sound: bytes) -> None:
    """Index, checksum and code of each line: every byte of them, turned into its neighbors and other digits."""
    for _, start, end in lines_of(sound):
        for place in range(start, sound.index(b"{", start, end)):
            for flip in (1, 4, 16):
                reopen(sound[:place] + bytes([sound[place] ^ flip]) + sound[place + 1 :], sound, range(place, place + 1))


@given(data=st.data())
def test_a_cut_journal_keeps_the_rows_before_the_cut(sound: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(sound) - 1))
    reopen(sound[:place], sound, range(place, len(sound)))


@given(data=st.data())
def test_bytes_put_in_or_taken_out_never_make_a_wrong_row(sound: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sound) - 1))
    stop = data.draw(st.integers(start, min(start + 50, len(sound))))
    put = data.draw(st.binary(max_size=50) | st.just(b"\x00" * 4096) | st.just(sound[start - 40 : start]))
    reopen(sound[:start] + put + sound[stop:], sound, range(max(start - 1, 0), max(stop, start + 1)))


@given(content=st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b'{"olc_journal": 1, ' + tail))
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
