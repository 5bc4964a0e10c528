"""JSON Lines: an object a line, with a prompt or the template's variables; blank lines are passed over."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from openllama_cli.batch.checks import check_text, decode, kind, names, render
from openllama_cli.batch.lines import Line, content, limit_text, open_input, read_lines
from openllama_cli.batch.openai_lines import is_openai_line, may_be_openai_line, openai_row
from openllama_cli.batch.row_options import read_options
from openllama_cli.batch.rows import InvalidRowError, Row, RowSettings, default_id, error_row


def read_jsonl(
    path: Path, settings: RowSettings, skip: Callable[[int], bool] | None, on_bytes: Callable[[memoryview], object] | None
) -> Iterator[Row]:
    """The rows of the file; those that are skipped are not parsed. Raises UsageError if it cannot be opened."""
    index = -1
    with open_input(path, on_bytes) as file:
        for line in read_lines(file, settings.max_line_bytes):
            if line.data.isspace() and line.whole:
                continue
            index += 1
            if skip is None or not skip(index):
                yield _row(index, line, settings)


def _row(index: int, line: Line, settings: RowSettings) -> Row:
    try:
        fields = _parse(line, settings.max_line_bytes)
    except InvalidRowError as error:
        return error_row(index, line.number, error.code, error.message, openai=may_be_openai_line(line.data))
    variables = () if settings.template is None else settings.template.variables
    openai, custom_id = is_openai_line(fields, variables), None
    try:
        custom_id = _custom_id(index, fields)
        if openai:
            return openai_row(index, line.number, custom_id, fields, settings)
        sampling, own_seed = read_options(fields, settings, variables=variables)
        prompt = _prompt(fields) if settings.template is None else render(settings.template, fields)
        return Row(index, custom_id, check_text(prompt, "prompt"), None, sampling, own_seed, line=line.number)
    except InvalidRowError as error:
        return error_row(index, line.number, error.code, error.message, custom_id=custom_id, openai=openai)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse(line: Line, limit: int) -> dict[str, Any]:
    if not line.whole:
        raise InvalidRowError("line_too_long", f"line {line.number} is longer than {limit_text(limit)}")
    text = decode(content(line.data), line.number)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise InvalidRowError("invalid_json", f"line {line.number} is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise InvalidRowError("invalid_json", f"line {line.number} is not JSON: {error}") from None
    except RecursionError:
        raise InvalidRowError("invalid_json", f"line {line.number} is nested too deeply") from None
    if not isinstance(value, dict):
        raise InvalidRowError("invalid_type", f'line {line.number} is {kind(value)}; give an object, such as {{"prompt": "…"}}')
    return value


def _custom_id(index: int, fields: Mapping[str, Any]) -> str:
    given = fields.get("custom_id")
    if given is None or given == "":
        return default_id(index)
    if type(given) is int:
        return str(given)
    if not isinstance(given, str):
        raise InvalidRowError("invalid_type", f"custom_id is {kind(given)}; give a text")
    return check_text(given, "custom_id")


def _prompt(fields: Mapping[str, Any]) -> str:
    prompt = fields.get("prompt")
    if prompt is None:
        raise InvalidRowError("missing_prompt", f"the row has no 'prompt'; {names(fields)}")
    if not isinstance(prompt, str):
        raise InvalidRowError("invalid_type", f"prompt is {kind(prompt)}; give a text")
    return prompt
