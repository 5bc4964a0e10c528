"""The rows of an input file, whatever its format: .txt, .jsonl, .csv or .tsv."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from openllama_cli.batch.input.csv_rows import columns_of, csv_row, delimiter_of, read_records
from openllama_cli.batch.input.jsonl_rows import jsonl_row, read_objects
from openllama_cli.batch.input.lines import Line, open_input, read_lines
from openllama_cli.batch.input.prompts import Prompt, render
from openllama_cli.batch.input.row_options import default_options, row_with
from openllama_cli.batch.input.rows import (
    Row,
    RowError,
    RowSettings,
    default_id,
    error_row,
    text_of,
)
from openllama_cli.errors import UsageError
from openllama_cli.system.convert import to_lines

T = TypeVar("T")
FormatName = Literal["txt", "jsonl", "csv", "tsv"]
_SUFFIXES: dict[str, FormatName] = {
    ".txt": "txt",
    ".text": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}


def input_format(path: Path, name: str | None = None) -> FormatName:
    """The format of an input file: `name`, else by the file's suffix. Raises UsageError for an unknown one."""
    known = get_args(FormatName)
    if name is not None:
        if name not in known:
            raise UsageError(f"unknown format {name}", f"use one of {', '.join(known)}")
        return cast(FormatName, name)
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix == ".json":
        remedy = f"if it has one object per line, use --format jsonl; else convert it: {to_lines(path)}"
        raise UsageError(f"{path} is JSON, not JSON Lines", remedy)
    what = f"the suffix {suffix!r} of {path}" if suffix else f"{path}, which has no suffix,"
    raise UsageError(f"{what} does not imply a format", f"use --format {', '.join(known)}")


def read_rows(
    path: Path,
    fmt: FormatName,
    settings: RowSettings,
    *,
    skip: Callable[[int], bool] | None = None,
    on_bytes: Callable[[memoryview], object] | None = None,
) -> Iterator[Row]:
    """The rows of a file, in order, one at a time; the file is never read into memory.

    skip: rows for whose index it is true are skipped, without parsing them where possible. on_bytes: called with
    the file's bytes as they are read, such as a hash's `update`.

    A row that is wrong comes as an error row. Raises UsageError for a file that cannot be opened, a header that is wrong or
    lacks a column that is needed, and a template that does not fit the format; OlcError where reading fails.
    """
    limit = settings.max_line_bytes
    with open_input(path, on_bytes) as file:
        if fmt == "txt":
            yield from _made(read_lines(file, limit), partial(_text_row, _line_variable(settings), settings), skip)
        elif fmt == "jsonl":
            yield from _made(read_objects(file, limit), partial(jsonl_row, settings), skip)
        else:
            delimiter = delimiter_of(file, "," if fmt == "csv" else "\t")
            records = read_records(file, delimiter, limit)
            if (header := next(records, None)) is not None:
                yield from _made(records, partial(csv_row, columns_of(path, header, delimiter, settings), settings), skip)


def _made(records: Iterable[T], row_of: Callable[[int, T], Row], skip: Callable[[int], bool] | None) -> Iterator[Row]:
    for index, record in enumerate(records):
        if skip is None or not skip(index):
            yield row_of(index, record)


def _text_row(variable: str | None, settings: RowSettings, index: int, line: Line) -> Row:
    """A line as a prompt. An empty one is an empty prompt, so that line n + 1 is row n."""
    try:
        options, text = default_options(settings), text_of(line, settings.max_line_bytes)
        prompt = Prompt(text) if variable is None else render(settings, {variable: text}, options.sampling, options.choices)
        return row_with(options, settings, index, line.number, default_id(index), prompt)
    except RowError as error:
        return error_row(index, line.number, error)


def _line_variable(settings: RowSettings) -> str | None:
    """The variable of the template that a line of text fills: its one variable without a default."""
    template = settings.template
    if template is None:
        return None
    names = template.required or template.variables
    if len(names) == 1:
        return names[0]
    what = f"{len(names)} variables to fill ({', '.join(names)})" if names else "no variables"
    raise UsageError(
        f"template {template.name} has {what}, and a line of text is one", "give a .jsonl or .csv file with its variables"
    )
