"""Constraints over HTTP: under olc's names, OpenAI's and vLLM's; the same text as in Python."""

import json
from typing import Any

import jsonschema
import pytest

from tests.support.serve.servers import Served, joined

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "legs": {"enum": [2, 4]}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
GRAMMAR = 'start: "yes" | "no" | NUMBER\nNUMBER: /[0-9]{3}/\n'


def test_every_name_means_the_same(served: Served) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "animal", "strict": True, "schema": SCHEMA}}
    wanted = served.model.complete("the cat", json_schema=SCHEMA, max_tokens=60)
    jsonschema.validate(json.loads(wanted.text), SCHEMA)
    for body in (
        {"json_schema": SCHEMA},
        {"json_schema": json.dumps(SCHEMA)},
        {"response_format": format_},
        {"structured_outputs": {"json": SCHEMA, "regex": None}},
        {"guided_json": SCHEMA},
    ):
        (choice,) = served.complete(prompt="the cat", max_tokens=60, temperature=0, **body)["choices"]
        assert choice["text"] == wanted.text
        assert (choice["finish_reason"], choice["olc"]["constraint"]) == ("stop", {"complete": True})
    wanted = served.model.complete("the cat", regex=" [ab]{3}")
    for body in ({"regex": " [ab]{3}"}, {"structured_outputs": {"regex": " [ab]{3}"}}, {"guided_regex": " [ab]{3}"}):
        assert served.complete(prompt="the cat", temperature=0, **body)["choices"][0]["text"] == wanted.text
    wanted = served.model.complete("the cat", grammar=GRAMMAR)
    for body in ({"grammar": GRAMMAR}, {"structured_outputs": {"grammar": GRAMMAR}}, {"guided_grammar": GRAMMAR}):
        assert served.complete(prompt="the cat", temperature=0, **body)["choices"][0]["text"] == wanted.text


def test_any_object(served: Served) -> None:
    for body in ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}):
        (choice,) = served.complete(prompt="a", max_tokens=3, temperature=0, **body)["choices"]
        assert choice["text"].lstrip().startswith("{")
        assert choice["olc"]["constraint"] == {"complete": False}


def test_a_stream_says_at_its_end_whether_it_is_complete(served: Served) -> None:
    chunks = served.stream(prompt="a", regex="[ab]{3}", n=2, seed=3)
    assert all(len(choice["text"]) == 3 for choice in joined(chunks))
    told = [choice["olc"].get("constraint") for chunk in chunks for choice in chunk["choices"]]
    assert told.count({"complete": True}) == 2


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"regex": "(?=a)"}, "constraint_invalid", "regex cannot be used: look-around"),
        ({"response_format": {"type": "xml"}}, "unsupported_option", 'response_format is {"type": "xml"}; send'),
        ({"response_format": {"type": "json_schema"}}, "unsupported_option", "response_format is"),
        ({"structured_outputs": {"choice": ["a"]}}, "unsupported_option", "send choices"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "unsupported_option", "structured_outputs is"),
        ({"regex": "a", "json_schema": {}}, "constraint_combined", "regex cannot be combined with json_schema"),
        ({"regex": "a", "guided_json": {}}, "constraint_combined", "regex cannot be combined with json_schema"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "constraint_combined", "send one of them"),
        ({"json_schema": "{"}, "constraint_invalid", "it is not JSON"),
        ({"json_schema": False}, "constraint_unsatisfiable", "it is false"),
    ],
)
def test_what_cannot_be_answered_is_said(served: Served, body: dict[str, Any], code: str, words: str) -> None:
    status, found, message = served.refused(prompt="a", **body)
    assert (status, found) == (400, code)
    assert words in message
