"""A line is the document that `json` makes of it, though lists of alternatives in it are text until they are asked for."""

import json
from typing import Any

import pytest

from openllama_cli.compare.documents import Alternatives, Documents, whole


def converted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: converted(one) for key, one in value.items()}
    if isinstance(value, list | Alternatives):
        return [converted(value[place]) for place in range(len(value))]
    return value


LISTS = [
    '[{" a": -0.5, " b": -1.25e-05}, {}, null]',
    '[{" a":-0.5," b":0},{"}, {": 1e999, "\\"": -1, "\\u00e9\\ud800": 2E+5}]',
    '[{"NaN": -0.5, "a": -1, "a": -2}]',
    "[null]",
    # As no json.dumps writes them, or not as alternatives.
    "[]",
    '[ {"a": -0.5} ]',
    '[{"a": {"b": -0.5}}]',
    '[{"a": "-0.5"}, 3]',
    '[{"a": NaN}]',
    "NaN",
    "null",
    f'[{{"a": -{"1" * 400}.5}}]',
]


@pytest.mark.parametrize("found", LISTS)
@pytest.mark.parametrize(
    "line",
    [
        '{"top_logprobs": ?, "b": 1}',
        '\ufeff{"a": [{"top_logprobs": ?}, {"top_logprobs":?}], "NaN": "NaN"}\r\n',
        '{"top_logprobs": 3, "top_logprobs": ?, "b": NaN}',
        '{"top_logprobs": ?, "top_logprobs": -Infinity}',
        '{"x\\"top_logprobs": ?, "y": "\\"top_logprobs\\": [null]"}',
    ],
)
def test_a_document_is_what_json_makes_of_it(found: str, line: str) -> None:
    text = line.replace("?", found)
    wanted = json.loads(text.removeprefix("\ufeff"), parse_constant=lambda name: None)
    assert converted(Documents().of(text.encode())) == wanted == whole(text.encode())


@pytest.mark.parametrize(
    "found",
    [
        '[{"a": -0.5}',
        '[{"a": -0.5},]',
        '[{"a": 01}]',
        '[{"a": -.5}]',
        '[{"a": 1.}]',
        '[{"a": -0.5e}]',
        '[{"a": - 1}]',
        '[{"a\n": -0.5}]',
        '[{"\\x": -0.5}]',
        '[{"\\u00g0": -0.5}]',
        '[{"a" -0.5}]',
        "[{a: -0.5}]",
        "[nul]",
        '[{"a": -0.5} {"a": -0.5}]',
        f'[{{"a": {"1" * 5000}}}]',
    ],
)
def test_what_is_not_json_is_refused(found: str) -> None:
    for text in (f'{{"top_logprobs": {found}}}', f'{{"top_logprobs": {found}, "b": [{{"top_logprobs": [null]}}]}}'):
        with pytest.raises(ValueError):  # noqa: PT011
            whole(text.encode())
        with pytest.raises(ValueError):  # noqa: PT011
            Documents().of(text.encode())


@pytest.mark.parametrize(
    "line", [b'{"top_logprobs": [null]} x', b'x {"top_logprobs": [null]}', b'{"a\xff": 1, "top_logprobs": [null]}']
)
def test_what_stands_around_a_list_is_json_too(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Documents().of(line)


def test_only_what_is_asked_for_is_converted() -> None:
    found = Documents().of(b'{"top_logprobs": [{"a": -0.5}, null, {"b": 1e999}]}')["top_logprobs"]
    assert isinstance(found, Alternatives)
    assert (len(found), found[0], found[1]) == (3, {"a": -0.5}, None)
    with pytest.raises(IndexError):
        found[3]
