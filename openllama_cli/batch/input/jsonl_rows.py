"""JSON Lines: an object per line, with a prompt or the template's variables; blank lines are skipped."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NoReturn

from openllama_cli.batch.input.field_names import MOST_FIELDS, meaning
from openllama_cli.batch.input.lines import Line, read_lines
from openllama_cli.batch.input.prompts import Prompt, calibrated, render
from openllama_cli.batch.input.row_options import RowOptions, default_options, read_options, row_with
from openllama_cli.batch.input.rows import (
    Row,
    RowError,
    RowSettings,
    check_text,
    default_id,
    error_row,
    kept_prompt,
    kind,
    names,
    shown,
    text_of,
)


def read_objects(file: BinaryIO, limit: int) -> Iterator[Line]:
    """The lines of a file that are not blank. limit: bytes of a line."""
    return (line for line in read_lines(file, limit) if not (line.data.isspace() and line.complete))


def jsonl_row(settings: RowSettings, index: int, line: Line) -> Row:
    """The row that a line asks for, or its error row."""
    try:
        fields = _parse(line, settings.max_line_bytes)
    except RowError as error:
        return error_row(index, line.number, error, openai=_may_be_openai_line(line.data))
    variables = () if settings.template is None else settings.template.variables
    openai, custom_id = _is_openai_line(fields, variables), None
    carried: dict[str, Any] = {}
    try:
        if openai:
            custom_id = _custom_id(index, fields.get("custom_id"))
            return _openai_row(index, line.number, custom_id, fields, settings)
        id_field = _id_field(fields, settings, variables)
        carried, too_deep = _carried(fields, id_field, settings, variables)
        custom_id = _custom_id(index, fields.get(id_field))
        if too_deep:
            raise RowError("invalid_json", f"line {line.number} is nested too deeply")
        options = read_options(fields, settings, variables=variables)
        text = _prompt(fields, settings, options)
        return row_with(options, settings, index, line.number, custom_id, text, carried=carried, fields=fields)
    except RowError as error:
        prompt = None if openai else kept_prompt(error, lambda: _prompt(fields, settings, default_options(settings)).text)
        return error_row(index, line.number, error, custom_id=custom_id, prompt=prompt, openai=openai, carried=carried)


def _id_field(fields: Mapping[str, Any], settings: RowSettings, variables: tuple[str, ...]) -> str:
    """The field that names a row: custom_id, else `id` where it can be one and nobody else wants it."""
    free = "id" in fields and "id" not in variables and "id" not in settings.carry.names
    if fields.get("custom_id") is None and free and type(fields["id"]) in (int, str):
        return "id"
    return "custom_id"


def _carried(
    fields: Mapping[str, Any], id_field: str, settings: RowSettings, variables: tuple[str, ...]
) -> tuple[dict[str, Any], bool]:
    """What goes through to OUTPUT, but for what is nested too deeply; and whether something is."""
    used = {id_field, *variables, *(() if settings.template is not None else ("prompt",))}
    used.update(name for name in fields if name not in variables and meaning(name) is not None)
    carried = settings.carry.of(fields, used)
    deep = [name for name, value in carried.items() if isinstance(value, (list, dict)) and _too_deep(value)]
    for name in deep:
        del carried[name]
    return carried, bool(deep)


def _too_deep(value: Any) -> bool:
    """Whether lists and objects stand within each other more than _DEEPEST times; asked without recursion."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, dict))
        ]
        if not level:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
# Objects within objects that go through to OUTPUT: far more than anybody writes, few enough for every reader.
_DEEPEST = 100


def _parse(line: Line, limit: int) -> dict[str, Any]:
    text = text_of(line, limit)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError("invalid_json", f"line {line.number} is not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise RowError("invalid_json", f"line {line.number} is not JSON: {error}") from None
    except RecursionError:
        raise RowError("invalid_json", f"line {line.number} is nested too deeply") from None
    if not isinstance(value, dict):
        raise RowError("invalid_type", f'line {line.number} is {kind(value)}; give an object, such as {{"prompt": "…"}}')
    if len(value) > MOST_FIELDS:
        raise RowError("invalid_json", f"line {line.number} has {len(value)} fields; {MOST_FIELDS} are the most")
    return value


def _custom_id(index: int, given: Any) -> str:
    if given is None or given == "":
        return default_id(index)
    if type(given) is int:
        return str(given)
    if not isinstance(given, str):
        raise RowError("invalid_type", f"custom_id is {kind(given)}; give a string")
    return check_text(given, "custom_id")


def _prompt(fields: Mapping[str, Any], settings: RowSettings, options: RowOptions) -> Prompt:
    if settings.template is None:
        return Prompt(check_text(_text(fields), "prompt"))
    return render(settings, fields, options.sampling, options.choices)


def _text(fields: Mapping[str, Any]) -> str:
    prompt = fields.get("prompt")
    if prompt is None:
        what = "prompt is null; give a string" if "prompt" in fields else f"the row has no 'prompt'; {names(fields)}"
        raise RowError("missing_prompt", what)
    if not isinstance(prompt, str):
        raise RowError("invalid_type", f"prompt is {kind(prompt)}; give a string")
    return prompt


_URL = "/v1/completions"


def _is_openai_line(fields: Mapping[str, Any], variables: tuple[str, ...]) -> bool:
    """Whether an object is such a line. variables: of the template, whose fields are its own whatever their names."""
    return "body" in fields and ("url" in fields or "method" in fields) and not ({"body", "url", "method"} & set(variables))


def _may_be_openai_line(data: bytes) -> bool:
    """Whether a line that cannot be parsed looks like one, so that its error is answered in the same shape."""
    return b'"body"' in data and (b'"url"' in data or b'"method"' in data)


def _openai_row(index: int, line: int, custom_id: str, fields: Mapping[str, Any], settings: RowSettings) -> Row:
    method, url, body = fields.get("method", "POST"), fields.get("url"), fields["body"]
    if method != "POST" or url != _URL:
        hint = "; base models complete a prompt and have no chat messages" if isinstance(url, str) and "chat" in url else ""
        raise RowError("unsupported_endpoint", f'{shown(method)} {shown(url)} is not available, only "POST" "{_URL}"{hint}')
    if not isinstance(body, dict):
        raise RowError("invalid_type", f"body is {kind(body)}; give an object with a prompt")
    if settings.template is not None:
        raise RowError("template_error", "an OpenAI batch line already has its prompt; leave out the template")
    if settings.scoring is not None:
        raise RowError("openai_line", "an OpenAI batch line asks for a completion, and --score makes none")
    if settings.for_server:
        if body.get("prompt") is None:
            _openai_prompt(body)
        if _too_deep(body):
            raise RowError("invalid_json", f"line {line} is nested too deeply")
        if settings.choosing.choices is not None and body.get("choices") is None:
            choices = calibrated(settings.choosing.choices, settings, {})
            return Row(index, custom_id, sampling=settings.sampling, openai=True, line=line, body=body, choices=choices)
        return Row(index, custom_id, sampling=settings.sampling, openai=True, line=line, body=body)
    prompt, tokens = _openai_prompt(body)
    options = read_options(body, settings, openai=True)
    if tokens is not None and options.choices is not None:
        raise RowError("unsupported_option", "the prompt is token ids; with choices, which are tokenized with it, give a text")
    text = None if prompt is None else Prompt(prompt)
    return row_with(options, settings, index, line, custom_id, text, tokens=tokens, openai=True)


def _openai_prompt(body: Mapping[str, Any]) -> tuple[str | None, tuple[int, ...] | None]:
    """The prompt as text or as token ids: the body has a string, a list of ids, or a list of one of these."""
    given = body.get("prompt")
    if given is None:
        hint = "; it has messages: base models complete a prompt" if "messages" in body else ""
        raise RowError("missing_prompt", f"the body has no prompt{hint}")
    if isinstance(given, list) and given and isinstance(given[0], (str, list)):
        if len(given) > 1:
            raise RowError("unsupported_option", f"{len(given)} prompts in one line; give each its own line")
        given = given[0]
    if isinstance(given, str):
        return check_text(given, "prompt"), None
    # type() and not isinstance: True is an int in Python.
    if isinstance(given, list) and given and all(type(token) is int and token >= 0 for token in given):
        return None, tuple(given)
    what = "an empty list" if given == [] else kind(given)
    raise RowError("invalid_type", f"prompt is {what}; give a string or a list of token ids")
