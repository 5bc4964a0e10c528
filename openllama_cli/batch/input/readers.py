"""The rows of an input file, whatever its format: .txt, .jsonl, .csv or .tsv."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from openllama_cli.batch.input.csv_rows import read_csv
from openllama_cli.batch.input.jsonl_rows import read_jsonl
from openllama_cli.batch.input.lines import Line, content, limit_text, open_input, read_lines
from openllama_cli.batch.input.rows import InvalidRowError, Row, RowSettings, check_text, decode, default_id, error_row, render
from openllama_cli.errors import UsageError

FormatName = Literal["txt", "jsonl", "csv", "tsv"]
_SUFFIXES: dict[str, FormatName] = {
    ".txt": "txt",
    ".text": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}


@dataclass(frozen=True)
class InputFormat:
    """How an input file is read.

    Raises UsageError for a name that is none of a format.
    """

    name: FormatName

    def __post_init__(self) -> None:
        if self.name not in get_args(FormatName):
            raise UsageError(f"there is no format {self.name}", f"use one of {', '.join(get_args(FormatName))}")

    @classmethod
    def of(cls, path: Path) -> "InputFormat":
        """The format that a file's suffix stands for. Raises UsageError for an unknown one, naming --format."""
        suffix = path.suffix.lower()
        if suffix in _SUFFIXES:
            return cls(_SUFFIXES[suffix])
        what = f"the suffix {suffix!r} of {path}" if suffix else f"{path}, which has no suffix,"
        if suffix == ".json":
            raise UsageError(
                f"{path} is JSON, not JSON Lines", "if it has an object a line: --format jsonl; else convert it: jq -c '.[]'"
            )
        raise UsageError(f"{what} does not tell a format", f"say --format {', '.join(get_args(FormatName))}")


def read_rows(
    path: Path,
    fmt: InputFormat,
    settings: RowSettings,
    *,
    skip: Callable[[int], bool] | None = None,
    on_bytes: Callable[[memoryview], object] | None = None,
) -> Iterator[Row]:
    """The rows of a file, in order, one at a time; the file is never held in memory.

    skip: rows for whose index it is true are passed over, without being parsed where that can be. on_bytes: called with
    the file's bytes as they are read, such as a hash's `update`.

    A row that is wrong comes as an error row. Raises UsageError for a file that cannot be opened, a header that is wrong,
    and a template that does not fit the format; OlcError where reading fails.
    """
    if fmt.name == "txt":
        return _read_text(path, settings, _line_variable(settings), skip, on_bytes)
    if fmt.name == "jsonl":
        return read_jsonl(path, settings, skip, on_bytes)
    return read_csv(path, "," if fmt.name == "csv" else "\t", settings, skip, on_bytes)


def _read_text(
    path: Path,
    settings: RowSettings,
    variable: str | None,
    skip: Callable[[int], bool] | None,
    on_bytes: Callable[[memoryview], object] | None,
) -> Iterator[Row]:
    """A prompt a line. An empty line is an empty prompt, so that line n + 1 is row n."""
    with open_input(path, on_bytes) as file:
        for index, line in enumerate(read_lines(file, settings.max_line_bytes)):
            if skip is None or not skip(index):
                yield _text_row(index, line, variable, settings)


def _text_row(index: int, line: Line, variable: str | None, settings: RowSettings) -> Row:
    try:
        if not line.whole:
            raise InvalidRowError("line_too_long", f"line {line.number} is longer than {limit_text(settings.max_line_bytes)}")
        prompt = decode(content(line.data), line.number)
        if settings.template is not None and variable is not None:
            prompt = check_text(render(settings.template, {variable: prompt}), "prompt")
        return Row(index, default_id(index), prompt, None, settings.sampling, line=line.number)
    except InvalidRowError as error:
        return error_row(index, line.number, error.code, error.message)


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
