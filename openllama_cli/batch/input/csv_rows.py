"""Comma- and tab-separated values with a header: a column `prompt`, or columns that are the template's variables."""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from openllama_cli.batch.input.lines import Line, limit_text, open_input, read_lines
from openllama_cli.batch.input.rows import (
    InvalidRowError,
    Row,
    RowSettings,
    check_text,
    default_id,
    error_row,
    names,
    not_utf8,
    render,
)
from openllama_cli.errors import UsageError

# Lines of one record: each costs memory beyond its bytes until the record is whole.
_MAX_LINES = 100_000


@dataclass(frozen=True, slots=True)
class Record:
    """line: where it begins, from 1. fields: its values; None where it is wrong. code, message: what is wrong."""

    line: int
    fields: list[str] | None
    code: str = ""
    message: str = ""


def read_records(file: BinaryIO, delimiter: str, limit: int) -> Iterator[Record]:
    """The records of a file; blank lines are none. limit: bytes of a record, over all its lines."""
    # The limit of a field is global in the csv module; a record's is held here.
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    source = _Source(read_lines(file, limit), limit)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.begin()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _TooLongError:
            yield _too_long(source.taken, limit)
            source.resume_after_first()
        except csv.Error as error:
            yield _invalid(source.taken, str(error))
            source.resume_after_first()
        else:
            if source.invalid_utf8 is not None:
                yield Record(source.taken[0].number, None, "invalid_utf8", source.invalid_utf8)
            elif fields:
                yield Record(source.taken[0].number, fields)


class _TooLongError(Exception):
    """A record went beyond the limit."""


class _Source:
    """Lines as csv.reader wants them. It keeps those of the record that is being read, to go back to."""

    def __init__(self, lines: Iterator[Line], limit: int) -> None:
        self._lines, self._limit = lines, limit
        self._again: deque[Line] = deque()
        self._size = 0
        self.taken: list[Line] = []
        self.invalid_utf8: str | None = None

    def begin(self) -> None:
        self.taken, self._size, self.invalid_utf8 = [], 0, None

    def resume_after_first(self) -> None:
        """Give all lines of the record but its first again."""
        self._again.extendleft(reversed(self.taken[1:]))

    def __iter__(self) -> "_Source":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        self._size += len(line.data)
        # A line break more or less does not matter for a record of several lines.
        if not line.whole or (len(self.taken) > 1 and self._size > self._limit) or len(self.taken) > _MAX_LINES:
            raise _TooLongError
        try:
            return line.data.decode()
        except UnicodeDecodeError as error:
            if self.invalid_utf8 is None:
                self.invalid_utf8 = not_utf8(line.data, line.number, error)
            # Separators and quotes are ASCII: where the record ends can be told all the same.
            return line.data.decode(errors="surrogateescape")


def _too_long(taken: list[Line], limit: int) -> Record:
    first = taken[0]
    if len(taken) == 1:
        return Record(first.number, None, "line_too_long", f"line {first.number} is longer than {limit_text(limit)}")
    message = f"line {first.number} opens a quote that is not closed within {limit_text(limit)}"
    return Record(first.number, None, "invalid_csv", message)


def _invalid(taken: list[Line], reason: str) -> Record:
    """reason: the csv module's, put into words for someone who did not write the program that reads the file."""
    line = taken[0].number
    if len(taken) > 1:
        reason = "it opens a quote that is never closed"
    elif "expected after" in reason:
        reason = "text after the closing quote of a field; double the quotes inside a quoted field"
    elif "new-line character" in reason:
        reason = "a carriage return outside quotes"
    elif "unexpected end" in reason:
        reason = "it opens a quote that is never closed"
    return Record(line, None, "invalid_csv", f"line {line} is not valid CSV: {reason}")


def read_csv(
    path: Path,
    delimiter: str,
    settings: RowSettings,
    skip: Callable[[int], bool] | None,
    on_bytes: Callable[[memoryview], object] | None,
) -> Iterator[Row]:
    """The rows of the file; those that are skipped are not rendered.

    Raises UsageError if the file cannot be opened, or its header is wrong or lacks a column that is needed.
    """
    with open_input(path, on_bytes) as file:
        records = read_records(file, delimiter, settings.max_line_bytes)
        header = next(records, None)
        if header is None:
            return
        columns = _columns(path, header, delimiter, settings)
        for index, record in enumerate(records):
            if skip is None or not skip(index):
                yield _row(index, record, columns, settings)


def _columns(path: Path, header: Record, delimiter: str, settings: RowSettings) -> list[str]:
    """The names of the columns."""
    if header.fields is None:
        raise UsageError(f"the header of {path} is wrong: {header.message}", "begin the file with a line of column names")
    columns = [name.strip() for name in header.fields]
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path} has two columns {twice!r}", "rename one of them")
    needed = ("prompt",) if settings.template is None else settings.template.required
    for name in needed:
        if name not in columns:
            whose = "" if settings.template is None else f", which template {settings.template.name} needs"
            raise UsageError(
                f"{path} has no column {name!r}{whose}; {names(columns)}",
                _remedy(columns, delimiter, settings),
                code="no_column",
            )
    return columns


def _remedy(columns: Sequence[str], delimiter: str, settings: RowSettings) -> str:
    if columns[0].startswith("{"):
        return "if it is JSON Lines, say so: --format jsonl"
    for other, remedy in {"\t": "say --format tsv", ",": "say --format csv", ";": "save it with commas"}.items():
        if other != delimiter and len(columns) == 1 and other in columns[0]:
            return f"its columns are separated by {'a tab' if other == chr(9) else other!r}: {remedy}"
    return "rename the column" + (", or use a template: -t NAME" if settings.template is None else "")


def _row(index: int, record: Record, columns: Sequence[str], settings: RowSettings) -> Row:
    if record.fields is None:
        return error_row(index, record.line, record.code, record.message)
    fields = dict(zip(columns, record.fields, strict=False))
    fits = len(record.fields) == len(columns)
    # In a row with too many or too few fields only the first is surely in its place.
    own_id = fields.get("custom_id") if fits or columns[0] == "custom_id" else None
    custom_id = own_id or default_id(index)
    try:
        if not fits:
            count = f"{len(record.fields)} field{'' if len(record.fields) == 1 else 's'}"
            raise InvalidRowError("invalid_csv", f"line {record.line} has {count}, the header has {len(columns)}")
        prompt = fields["prompt"] if settings.template is None else render(settings.template, fields)
        return Row(index, custom_id, check_text(prompt, "prompt"), None, settings.sampling, line=record.line)
    except InvalidRowError as error:
        return error_row(index, record.line, error.code, error.message, custom_id=custom_id)
