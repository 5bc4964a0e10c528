"""Records of comma- or tab-separated values (RFC 4180): quoted fields may hold separators, quotes and line breaks.

A record that is wrong costs no more than the line it begins on: where a quote is never closed, or closed in the middle of a
field, reading goes on at the next line. Neither csv.reader alone (it would swallow the rest of the file) nor counting quotes
(they are text inside a field that is not quoted) does that.
"""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from openllama_cli.batch.checks import not_utf8
from openllama_cli.batch.lines import Line, limit_text, read_lines

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
