"""Comma- and tab-separated values with a header: a column `prompt`, or columns that are the template's variables."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from openllama_cli.batch.checks import check_text, names, render
from openllama_cli.batch.csv_records import Record, read_records
from openllama_cli.batch.lines import open_input
from openllama_cli.batch.rows import InvalidRowError, Row, RowSettings, default_id, error_row
from openllama_cli.errors import UsageError


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
