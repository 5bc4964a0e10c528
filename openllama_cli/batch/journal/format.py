"""How a journal is written: lines that show by themselves whether they are complete.

    {"olc_journal": 1, "rows": 3, "input": {…}, "model": {…}, …, "crc32": "…"}     what the rows depend on
    1 5f2c01aa - {"custom_id": "b", …}                                             row 1, finished
    ran 4c1fd20e - {"by": "local", …}                                              where the rows behind it were made
    0 9be11c40 context_length_exceeded {"custom_id": "a", …}                       row 0, failed
    complete 07c1d3e2 - {"rows": 3, "bytes": 512, "sha256": "…"}                    OUTPUT was written

The checksum covers the rest of its line, so a damaged line is dropped rather than believed; the last line of a row counts.
Lines end with a newline and no row holds one, so damage to one line never reaches the next but through the newline between.
"""

import json
import re
import zlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from openllama_cli.errors import UsageError

VERSION = 1
COMPLETE, RAN = b"complete", b"ran"
# No code: the row succeeded.
_NO_CODE = b"-"
_CODE = re.compile(rb"-|[A-Za-z0-9_]{1,100}")
_MOST_CODES = 1000
_LONGEST_HEADER = 1 << 24
# A journal's line is read at once, and no damage (a missing newline in gigabytes of zeros) may fill the memory.
LONGEST_LINE = 1 << 30

_ABSENT = -1


@dataclass(frozen=True, slots=True)
class Record:
    """A complete line. offset: of its first byte in the file. index: the row; None for the line that marks OUTPUT as complete,
    and for one that says where rows were made (ran).

    code: None for a row that succeeded. line: JSON.
    """

    offset: int
    index: int | None
    code: str | None
    line: bytes
    ran: bool = False


@dataclass(frozen=True)
class OutputRecord:
    """What was written as OUTPUT: its rows, its size in bytes, its sha256."""

    rows: int
    bytes: int
    sha256: str


def normalize(header: Mapping[str, object], rows: int) -> dict[str, Any]:
    """A header as it will be read back: version and rows first, tuples as lists."""
    document: dict[str, Any] = json.loads(json.dumps({"olc_journal": VERSION, "rows": rows} | dict(header)))
    return document | {"olc_journal": VERSION, "rows": rows}


def encode_header(header: Mapping[str, object]) -> bytes:
    """The first line, of a normalized header."""
    return json.dumps({**header, "crc32": _header_checksum(header)}).encode() + b"\n"


def read_header(file: BinaryIO, path: Path) -> dict[str, Any]:
    """The header of a journal that is open at its start.

    Raises UsageError: code "journal_damaged" if the first line is damaged or the file is not a journal, "journal_newer" if it
    is one of a later version of olc.
    """
    line = file.readline(_LONGEST_HEADER)
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or "olc_journal" not in header:
        raise _bad_header(path, "has a damaged first line" if b"olc_journal" in line[:64] else "is not an olc journal")
    version = header["olc_journal"]
    if type(version) is int and version > VERSION:
        raise UsageError(
            f"{path} was written by a newer olc (journal version {version}; this olc reads {VERSION})",
            "update olc, or start over with --restart",
            code="journal_newer",
        )
    try:
        sound = header.pop("crc32", None) == _header_checksum(header)
    except RecursionError:
        sound = False
    if not sound or version != VERSION or not line.endswith(b"\n"):
        raise _bad_header(path, "has a damaged first line")
    return header


def _bad_header(path: Path, what: str) -> UsageError:
    remedy = "start over with --restart, which overwrites it, or choose another -o"
    return UsageError(f"{path} {what}", remedy, code="journal_damaged")


def encode_record(index: int | None, code: str | None, line: bytes, *, ran: bool = False) -> bytes:
    """A line of the journal. index None: the line that marks OUTPUT as complete, or with `ran` one that says where rows were
    made.

    Raises ValueError for what would break the format.
    """
    if b"\n" in line:
        raise ValueError("a journal's line cannot hold a newline")
    key = b"%d" % index if index is not None else RAN if ran else COMPLETE
    if code is not None and not (code.isascii() and code.replace("_", "").isalnum()):
        raise ValueError(f"not an error code: {code!r}")
    code_bytes = _NO_CODE if code is None else code.encode()
    record = b"%b %08x %b %b\n" % (key, _checksum(key, code_bytes, line), code_bytes, line)
    if len(record) >= LONGEST_LINE:
        raise ValueError(f"a journal's line cannot be {len(record)} bytes long")
    return record


def decode_record(line: bytes, offset: int) -> Record | None:
    """The record on a line with its newline, or None if it is damaged."""
    parts = line[:-1].split(b" ", 3)
    if len(parts) != 4:
        return None
    key, checksum, code, payload = parts
    if b"%08x" % _checksum(key, code, payload) != checksum:
        return None
    if not (key in (COMPLETE, RAN) or (key.isdigit() and len(key) <= 18)) or not _CODE.fullmatch(code):
        return None
    index = int(key) if key.isdigit() else None
    return Record(offset, index, None if code == _NO_CODE else code.decode(), payload, key == RAN)


def decode_run(line: bytes) -> dict[str, Any] | None:
    """What a line says of where rows were made; None if it says something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def decode_output(line: bytes) -> OutputRecord | None:
    """What the line that marks OUTPUT as complete says; None if it says something else."""
    try:
        fields = json.loads(line)
        output = OutputRecord(**fields)
    except (ValueError, TypeError, RecursionError):
        return None
    known = type(output.rows) is int and type(output.bytes) is int and isinstance(output.sha256, str)
    return output if known else None


def read_records(file: BinaryIO) -> Iterator[tuple[int, Record | None]]:
    """The lines after the header, each with the offset of its end; None for a damaged one. A torn last line is left out."""
    offset = file.tell()
    while line := file.readline(LONGEST_LINE):
        start, offset = offset, offset + len(line)
        if line.endswith(b"\n"):
            yield offset, decode_record(line, start)
            continue
        # Torn, or longer than any line is: damage up to the next newline.
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 20)
            offset += len(line)
        if line:
            yield offset, None


def _checksum(key: bytes, code: bytes, line: bytes) -> int:
    return zlib.crc32(line, zlib.crc32(b"%b %b " % (key, code)))


def _header_checksum(header: Mapping[str, object]) -> str:
    return f"{zlib.crc32(json.dumps(header, sort_keys=True, separators=(',', ':')).encode()):08x}"


@dataclass(frozen=True)
class Counts:
    """done: finished rows, the failed ones among them. failed: those. by_code: how many failed with each code."""

    done: int
    failed: int
    by_code: dict[str, int]


class FinishedRows:
    """For each of `rows` rows: the offset of its line and the code it failed with, if it is finished. 10 bytes a row."""

    def __init__(self, rows: int) -> None:
        self._offsets = array("q", [_ABSENT]) * rows
        self._codes = array("H", [0]) * rows  # places in _names; 0 for rows that succeeded or are not finished
        self._names: dict[str | None, int] = {None: 0}

    def __contains__(self, index: int) -> bool:
        return self._offsets[index] != _ABSENT

    def offset(self, index: int) -> int | None:
        """Where a row's line begins; None if it is not finished."""
        offset = self._offsets[index]
        return None if offset == _ABSENT else offset

    def set(self, index: int, code: str | None, offset: int) -> None:
        """Note a finished row; what was known of it is superseded."""
        if code not in self._names and len(self._names) > _MOST_CODES:
            code = "other"  # olc has a few dozen: it cannot have written these
        self._offsets[index] = offset
        self._codes[index] = self._names.setdefault(code, len(self._names))

    def remove_failed(self) -> None:
        """Forget the rows that failed."""
        for index, place in enumerate(self._codes):
            if place:
                self._offsets[index], self._codes[index] = _ABSENT, 0

    def in_parts(self, starts: Sequence[int]) -> list[int]:
        """How many finished rows have their lines before the first of these offsets, and from each to the next."""
        counts = [0] * (len(starts) + 1)
        for offset in self._offsets:
            if offset != _ABSENT:
                counts[bisect_right(starts, offset)] += 1
        return counts

    def in_file(self) -> list[int]:
        """The finished rows in the order of their lines."""
        done = [index for index, offset in enumerate(self._offsets) if offset != _ABSENT]
        return sorted(done, key=self._offsets.__getitem__)

    @property
    def counts(self) -> Counts:
        """How many rows are finished, and how many of them failed with which codes."""
        places = Counter(self._codes)
        by_code = {code: places[place] for code, place in self._names.items() if code is not None and places[place]}
        return Counts(len(self._offsets) - self._offsets.count(_ABSENT), sum(by_code.values()), by_code)
