"""Constraints in requests: read from what clients send, and written for servers that are not olc's."""

import json
from typing import Any

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.openai_api.constraints import constraint_fields
from openllama_cli.openai_api.request import completion_request

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "null"}}}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, {"json_schema": SCHEMA}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": None, "structured_outputs": None, "guided_json": None}, {}),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
        ({"structured_outputs": {"regex": "a", "json": None, "disable_any_whitespace": False}}, {"regex": "a"}),
        ({"structured_outputs": {"grammar": "start: A"}}, {"grammar": "start: A"}),
        ({"guided_regex": "a"}, {"regex": "a"}),
        ({"prompt": "x", "regex": "a"}, {}),
    ],
)
def test_what_clients_send_under_olcs_names(body: dict[str, Any], fields: dict[str, Any]) -> None:
    assert constraint_fields(body) == fields


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"response_format": "json"}, "unsupported_option"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "unsupported_option"),
        ({"structured_outputs": {}}, "unsupported_option"),
        ({"structured_outputs": {"structural_tag": "x"}}, "unsupported_option"),
        ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "unsupported_option"),
        ({"guided_regex": "a", "structured_outputs": {"regex": "a"}}, "constraint_combined"),
    ],
)
def test_what_is_not_known_is_refused(body: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        constraint_fields(body)
    assert caught.value.code == code


def test_what_servers_get() -> None:
    sampling = SamplingConfig.from_given({"json_schema": SCHEMA})
    own = completion_request("m", "x", sampling)
    assert json.loads(own["json_schema"]) == SCHEMA
    other = completion_request("m", "x", sampling, olc=False)
    assert "json_schema" not in other
    assert other["structured_outputs"] == {"json": SCHEMA}
    assert list(other["structured_outputs"]["json"]["properties"]) == ["b", "a"]
    assert completion_request("m", "x", SamplingConfig(regex="a+"), olc=False)["structured_outputs"] == {"regex": "a+"}
    assert "structured_outputs" not in completion_request("m", "x", SamplingConfig(), olc=False)
