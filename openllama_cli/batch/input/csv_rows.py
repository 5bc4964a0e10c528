"""Comma- and tab-separated values with a header: a column `prompt`, or columns that are the template's variables."""

import csv
import shlex
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import BinaryIO

from openllama_cli.batch.input.field_names import MOST_FIELDS, meaning
from openllama_cli.batch.input.lines import Line, read_lines
from openllama_cli.batch.input.prompts import Prompt, render
from openllama_cli.batch.input.row_options import RowOptions, cell_value, default_options, read_options, row_with
from openllama_cli.batch.input.rows import (
    Row,
    RowError,
    RowSettings,
    check_text,
    default_id,
    error_row,
    kept_prompt,
    names,
    not_utf8,
)
from openllama_cli.errors import UsageError

_HEAD = 1 << 16
# Lines of one record: each costs memory beyond its bytes until the record is complete.
_MAX_LINES = 100_000

# A record: the line on which it begins, from 1, and its values or what is wrong with it.
Record = tuple[int, list[str] | RowError]


def delimiter_of(file: "BufferedReader[FileIO]", suffixed: str) -> str:
    """What separates the columns of a file, by its header: a semicolon where a comma finds one column only, as Excel writes CSV
    in much of Europe. suffixed: what the file's format says."""
    if suffixed != ",":
        return suffixed
    lines = file.peek(_HEAD)[:_HEAD].splitlines()
    header = next((line.decode(errors="replace") for line in lines if line.strip()), "")
    try:
        columns = next(csv.reader([header]), [])
    except csv.Error:
        return suffixed
    return ";" if len(columns) == 1 and ";" in columns[0] else suffixed


def read_records(file: BinaryIO, delimiter: str, limit: int) -> Iterator[Record]:
    """The records of a file; blank lines are skipped. limit: bytes of a record, over all its lines."""
    # The limit of a field is global in the csv module; a record's is checked here.
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
            yield source.first, _too_long(source, limit)
            source.resume_after_first()
        except _DoomedError as doomed:
            yield source.first, RowError("invalid_csv", f"line {source.first} is not valid CSV: it {doomed}")
        except csv.Error as error:
            yield source.first, _invalid(source, str(error))
            source.resume_after_first()
        else:
            if source.invalid_utf8 is not None:
                yield source.first, RowError("invalid_utf8", source.invalid_utf8)
            elif fields:
                yield source.first, fields


class _TooLongError(Exception):
    """A record went beyond the limit."""


class _DoomedError(Exception):
    """A record would run into the lines of one that failed."""


class _Source:
    """Lines as csv.reader wants them. It keeps those of the record that is being read, to go back to.

    What becomes of a record depends on nothing but where its lines begin, inside a quote or not. So a record that continues
    into a line that another one reached inside a quote fails as that one did, and nothing is read twice for it: a file of
    quotes that never fit costs time in proportion to its length.
    """

    def __init__(self, lines: Iterator[Line], limit: int) -> None:
        self._lines, self._limit = lines, limit
        self._again: deque[Line] = deque()
        self._size = 0
        self.lines_read: list[Line] = []  # of the record
        self.invalid_utf8: str | None = None
        self._doomed_until = 0  # the last line that a failed record reached

    def begin(self) -> None:
        """Begin the next record."""
        self.lines_read, self._size, self.invalid_utf8 = [], 0, None

    @property
    def first(self) -> int:
        """The number of the record's first line."""
        return self.lines_read[0].number

    def resume_after_first(self) -> None:
        """Give all lines of the record but its first again."""
        self._doomed_until = max(self._doomed_until, self.lines_read[-1].number)
        self._again.extendleft(reversed(self.lines_read[1:]))

    def __iter__(self) -> "_Source":
        return self

    def __next__(self) -> str:
        if self.lines_read and self._again and self._again[0].number <= self._doomed_until:
            raise _DoomedError("opens a quote that is never closed")
        line = self._again.popleft() if self._again else next(self._lines)
        self.lines_read.append(line)
        self._size += len(line.data)
        # A line break more or less does not matter for a record of several lines.
        if not line.complete or (len(self.lines_read) > 1 and self._size > self._limit) or len(self.lines_read) > _MAX_LINES:
            raise _TooLongError
        try:
            return line.data.decode()
        except UnicodeDecodeError as error:
            if self.invalid_utf8 is None:
                self.invalid_utf8 = not_utf8(line.data, line.number, error)
            # Separators and quotes are ASCII: the end of the record can be found all the same.
            return line.data.decode(errors="surrogateescape")


def _too_long(source: _Source, limit: int) -> RowError:
    line = source.first
    if len(source.lines_read) == 1:
        return RowError("line_too_long", f"line {line} is longer than {limit / 2**20:g} MiB")
    return RowError("invalid_csv", f"line {line} opens a quote that is not closed within {limit / 2**20:g} MiB")


def _invalid(source: _Source, reason: str) -> RowError:
    """reason: the csv module's, reworded for someone who never saw the code that reads the file."""
    if len(source.lines_read) > 1 or "unexpected end" in reason:
        reason = "it opens a quote that is never closed"
    elif "expected after" in reason:
        reason = "text after the closing quote of a field; double the quotes inside a quoted field"
    elif "new-line character" in reason:
        reason = "a carriage return outside quotes"
    return RowError("invalid_csv", f"line {source.first} is not valid CSV: {reason}")


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are for. names: as in the header. id: of the one that names a row. options: those of a row's
    options. used: all that olc has a use for."""

    names: tuple[str, ...]
    id: str
    options: tuple[str, ...]
    used: frozenset[str]


def columns_of(path: Path, header: Record, delimiter: str, settings: RowSettings) -> Columns:
    """The columns of a file. Raises UsageError if the header is wrong, lacks a column that is needed, or misspells one."""
    _, fields = header
    if isinstance(fields, RowError):
        raise UsageError(f"the header of {path} is invalid: {fields.message}", "start the file with a line of column names")
    if len(fields) > MOST_FIELDS:
        raise UsageError(f"{path} has {len(fields)} columns; {MOST_FIELDS} are the most", "leave out those that are not needed")
    columns = [name.strip() for name in fields]
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path} has two columns {twice!r}", "rename one of them")
    needed = ("prompt",) if settings.template is None else settings.template.required
    context = None if settings.scoring is None else settings.scoring.context_column
    for name in (*needed, *([] if context is None else [context])):
        if name not in columns:
            in_template = settings.template is not None and name in needed
            whose = f", which template {settings.template.name} needs" if in_template and settings.template else ""
            # A name in another case is no column, as it is no field of JSON.
            meant = next((column for column in columns if column.lower() == name.lower()), None)
            raise UsageError(
                f"{path} has no column {name!r}{whose}; {names(columns) if meant is None else f'did you mean {meant!r}?'}",
                _remedy(name, columns, delimiter, settings) if meant is None else f"rename the column {meant} to {name}",
                code="no_column",
            )
    return _uses(path, columns, settings)


def _uses(path: Path, columns: Sequence[str], settings: RowSettings) -> Columns:
    variables = () if settings.template is None else settings.template.variables
    data = settings.carry.names
    for name in sorted(data - set(columns)):
        raise UsageError(f"{path} has no column {name!r} to carry; {names(columns)}", "name one that it has in --carry")
    id_column = "id" if "custom_id" not in columns and "id" not in (*variables, *data) else "custom_id"
    own = ("prompt", id_column) if settings.template is None else (id_column,)
    used, options = {*own, *variables, ""}, []  # a column without a name cannot be carried under one
    for name in columns:
        means = None if name in variables or name in data else meaning(name)
        if means is None:
            continue
        if means.kind == "typo":
            quoted = shlex.quote(f"all,{name}")
            raise UsageError(
                f"unknown column {name!r} in {path}; did you mean {means.name}?",
                f"rename it, or keep it as data: --carry {quoted}",
                code="bad_option",
            )
        used.add(name)
        options.append(name)
    return Columns(tuple(columns), id_column, tuple(options), frozenset(used))


def _remedy(needed: str, columns: Sequence[str], delimiter: str, settings: RowSettings) -> str:
    if columns[0].startswith("{"):
        return "for JSON Lines, use --format jsonl"
    for other, remedy in {"\t": "use --format tsv", ",": "use --format csv", ";": "use --format csv"}.items():
        if other != delimiter and len(columns) == 1 and other in columns[0]:
            return f"its columns are separated by {'a tab' if other == chr(9) else other!r}: {remedy}"
    if settings.template is None:
        return f"rename a column to {needed}, or use a template: -t NAME"
    return f"rename a column to {needed}, or the variable in the template"


def csv_row(columns: Columns, settings: RowSettings, index: int, record: Record) -> Row:
    """The row of a record, or its error row."""
    line, values = record
    if isinstance(values, RowError):
        return error_row(index, line, values)
    fields = dict(zip(columns.names, values, strict=False))
    complete = len(values) == len(columns.names)
    # In a row with too many or too few fields only the first is surely in its place.
    own_id = fields.get(columns.id) if complete or columns.names[0] == columns.id else None
    custom_id = own_id or default_id(index)
    carried: dict[str, str] = {}
    try:
        if not complete:
            count = f"{len(values)} field{'' if len(values) == 1 else 's'}"
            raise RowError("invalid_csv", f"line {line} has {count}, the header has {len(columns.names)}")
        carried = settings.carry.of(fields, columns.used)
        given = {name: cell_value(means.name, fields[name]) for name in columns.options if (means := meaning(name))}
        options = read_options(given, settings) if given else default_options(settings)
        prompt = _prompt(fields, settings, options)
        return row_with(options, settings, index, line, custom_id, prompt, carried=carried, fields=fields)
    except RowError as error:
        kept = kept_prompt(error, lambda: _prompt(fields, settings, default_options(settings)).text) if complete else None
        return error_row(index, line, error, custom_id=custom_id, prompt=kept, carried=carried)


def _prompt(fields: dict[str, str], settings: RowSettings, options: RowOptions) -> Prompt:
    if settings.template is None:
        return Prompt(check_text(fields["prompt"], "prompt"))
    return render(settings, fields, options.sampling, options.choices)
