"""Any output of olc as a seekable file of JSON lines: what is not one already is copied into a temporary file as one."""

import csv
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

import orjson

from openllama_cli.batch.input.rows import default_id
from openllama_cli.batch.output.formats import DELIMITERS, TEXTS, encode, keeps_all
from openllama_cli.compare.entries import Entry, NotARowError, entries
from openllama_cli.errors import UsageError

# Cells that hold JSON.
_IN_JSON = ("logprobs", "samples", "choices")
# How a line of texts writes what would end it, and a backslash.
_ESCAPED = {"n": "\n", "r": "\r", "\\": "\\"}
_ESCAPE = re.compile(r"\\([nr\\])")
# JSON has no NaN and no infinity: where a file has them, nothing is known.
_STANDARD = json.JSONDecoder(parse_constant=lambda name: None)
# An integer of a line that may have more than 64 bits, which orjson makes a float: digits become 0, what stands before numbers
# a space.
_SHAPES = bytes.maketrans(b"123456789" + b":,[-\t\r\n", b"0" * 9 + b" " * 7)
_LONG = b" " + b"0" * 19
# Of a line, of a cell, and of a JSON document over several lines, in bytes.
_LONGEST = 64 << 20
_REMEDY = "name two outputs of olc batch, or two results of olc complete --json or olc generate --json"


@dataclass
class Lines:
    """JSON lines. name: of the file, as it was given. first: the document of the first line; None of an empty file."""

    name: str
    file: BinaryIO
    first: Any = field(init=False)
    _latest: tuple[bytes, int, list[Entry]] = field(init=False, default=(b"", 0, []))

    def __post_init__(self) -> None:
        line = self._read(1)
        self.first = self._parse(line, 1) if line.strip() else None

    def entries(self, like: "Lines | None" = None) -> Iterator[tuple[Entry, int, int]]:
        """Every entry with the offset of its line and its place in the line. Raises UsageError for a line that has none.

        like: another file that is read at the same time. A line that it has just given is not read a second time: its entries
        are the other's own.
        """
        self.file.seek(0)
        place = offset = number = 0
        while line := self._read(number := number + 1):
            if not line.isspace():
                found = self._found(line, number, place, like)
                for within, entry in enumerate(found):
                    yield entry, offset, within
                place += len(found)
            offset += len(line)

    def _found(self, line: bytes, number: int, place: int, like: "Lines | None") -> list[Entry]:
        same = like is not None and like._latest[:2] == (line, place)
        self._latest = line, place, like._latest[2] if like is not None and same else self._entries(line, number, place)
        return self._latest[2]

    def offsets(self) -> Iterator[int]:
        """Where each line begins that is not blank; each is a row of an output of `olc batch`, in its order."""
        self.file.seek(0)
        offset = number = 0
        while line := self._read(number := number + 1):
            if not line.isspace():
                yield offset
            offset += len(line)

    def document(self, offset: int) -> Any:
        """The document of a line that begins there. Raises UsageError where it is none."""
        self.file.seek(offset)
        return self._parse(self._read(0), 0)

    def entries_of(self, document: Any, index: int) -> list[Entry]:
        """Those of a `document` of this file. index: of its row. Raises UsageError where it is no row."""
        try:
            return entries(document, index)
        except NotARowError as problem:
            raise UsageError(
                f"row {index} of {self.name} is not a row or a result: {problem}", _REMEDY, code="diff_input"
            ) from problem

    def entry(self, offset: int, within: int) -> Entry:
        """An entry that `entries` gave before."""
        self.file.seek(offset)
        return self._entries(self._read(0), 0, 0)[within]

    def _read(self, number: int) -> bytes:
        try:
            line = self.file.readline(_LONGEST)
        except OSError as problem:
            raise unreadable(self.name, problem) from problem
        if len(line) == _LONGEST:
            self._refuse(number, f"it is longer than {_LONGEST >> 20} MiB")
        return line

    def _parse(self, line: bytes, number: int) -> Any:
        try:
            return document_of(line)
        except (ValueError, RecursionError):
            self._refuse(number, "it is not JSON")

    def _entries(self, line: bytes, number: int, place: int) -> list[Entry]:
        try:
            return entries(self._parse(line, number), place)
        except NotARowError as problem:
            self._refuse(number, str(problem))
        except RecursionError:  # orjson reads a custom_id that is nested too deeply to be written as a text.
            self._refuse(number, "it is not JSON")

    def _refuse(self, number: int, why: str) -> NoReturn:
        raise UsageError(f"line {number} of {self.name} is not a row or a result: {why}", _REMEDY, code="diff_input")


def document_of(line: bytes) -> Any:
    """The document of a line as `json` reads it, with an optional byte order mark; NaN, Infinity and -Infinity are None.

    Raises ValueError or RecursionError where it is not JSON.
    """
    if (b" " + line.translate(_SHAPES)).rfind(_LONG) < 0:  # Searched from its end, as that takes half as long.
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:  # What `json` may read: NaN, 1e400, a lone surrogate, a byte order mark.
            pass
    return _STANDARD.decode(line.decode().removeprefix("\ufeff"))


@contextmanager
def open_lines(path: Path, stdin: BinaryIO | None = None) -> Iterator[Lines]:
    """The JSON lines of an output by its suffix: .csv and .tsv with a header, .txt with a text a line, else JSON.

    stdin: what to read where the path is -. Raises UsageError for what cannot be read or compared.
    """
    try:
        opened: BinaryIO = stdin if stdin is not None and str(path) == "-" else path.open("rb")
    except (OSError, ValueError) as problem:
        what = "is a folder" if path.is_dir() else f"cannot be read: {getattr(problem, 'strerror', None) or problem}"
        raise UsageError(f"{path} {what}", _REMEDY, code="diff_input") from problem
    name = "stdin" if opened is stdin else str(path)
    with opened as source, tempfile.TemporaryFile() as copy:
        try:
            file = _json_lines(source, copy, path.suffix.lower(), name)
            file.seek(0)
        except OSError as problem:
            raise unreadable(name, problem) from problem
        yield Lines(name, file)


def unreadable(name: str, problem: OSError) -> UsageError:
    """For a file, or one that is made of it."""
    return UsageError(f"{name} cannot be read: {problem.strerror}", "check the file and its permissions", code="diff_input")


def _json_lines(source: BinaryIO, copy: BinaryIO, suffix: str, name: str) -> BinaryIO:
    """A file of JSON lines: the source itself, or the copy that was made of it. Raises UsageError, OSError."""
    file = source
    if not stat.S_ISREG(_mode(source)):
        shutil.copyfileobj(source, copy)
        copy.seek(0)
        file, suffix = copy, ""
    if suffix in DELIMITERS or suffix in TEXTS:
        try:
            text = io.TextIOWrapper(file, "utf-8-sig", errors="backslashreplace", newline="")
            rows = _texts(text) if suffix in TEXTS else _table(text, DELIMITERS[suffix], name)
            for row in rows:
                copy.write(json.dumps(row).encode() + b"\n")
            text.detach()
        except csv.Error as problem:
            raise UsageError(f"{name} is not a table: {problem}", _REMEDY, code="diff_input") from problem
        return copy
    if (document := _over_several_lines(file)) is not None:
        copy.seek(0)
        copy.truncate()
        copy.write(json.dumps(document).encode() + b"\n")
        return copy
    return file


def as_written(path: Path, line: bytes) -> Any:
    """The JSON of a row as `open_lines` reads it of a file of this name, whose format may leave out some of it."""
    suffix = path.suffix.lower()
    if keeps_all(path):
        return json.loads(line)
    text = io.StringIO(b"".join(encode(path, lambda: [line])).decode(), newline="")
    return next(_texts(text) if suffix in TEXTS else _table(text, DELIMITERS[suffix], path.name))


def _mode(file: BinaryIO) -> int:
    try:
        return os.fstat(file.fileno()).st_mode
    except (OSError, ValueError):  # stdin of another kind, as a test has it
        return stat.S_IFIFO


def _over_several_lines(file: BinaryIO) -> Any:
    """The document of a file that holds one over several lines, as jq writes it; None of any other file."""
    file.seek(0)
    first = file.readline(_LONGEST)
    if first.strip() not in (b"{", b"["):
        return None
    rest = file.read(_LONGEST)
    try:
        return json.loads(first + rest)
    except (ValueError, RecursionError):
        return None


def _texts(lines: TextIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines):
        text = _ESCAPE.sub(lambda found: _ESCAPED[found[1]], line.rstrip("\r\n"))
        yield {"custom_id": default_id(number), "text": text}


def _table(text: TextIO, delimiter: str, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a table as olc's own; an empty cell is an empty text, or in a failed row none."""
    before = csv.field_size_limit(_LONGEST)
    try:
        reader = csv.DictReader(text, delimiter=delimiter)
        if missing := {"custom_id", "text"} - set(reader.fieldnames or ()):
            raise UsageError(f"{name} has no column {' and no column '.join(sorted(missing))}", _REMEDY, code="diff_input")
        for cells in reader:
            error = cells.get("error_code")
            row = {field: cells.get(field) or None for field in ("prompt", "finish_reason")}
            row |= {"custom_id": cells["custom_id"] or "", "text": None if error else cells["text"] or ""}
            row |= {field: value for field in _IN_JSON if (value := _json(cells.get(field))) is not None}
            if cells.get("score_logprob"):
                row |= {"text": None, "score": {field: _json(cells.get(f"score_{field}")) for field in ("logprob", "tokens")}}
            yield {**row, "error": {"code": error} if error else None}
    finally:
        csv.field_size_limit(before)


def _json(cell: str | None) -> Any:
    try:
        return json.loads(cell) if cell else None
    except (ValueError, RecursionError):
        return None
