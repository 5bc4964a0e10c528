"""What a text has to match, as requests of other programs say it."""

import json
from collections.abc import Mapping
from typing import Any

from openllama_cli.errors import UsageError

# OpenAI's, vLLM's, and vLLM's before 0.12.
RESPONSE_FORMAT = "response_format"
STRUCTURED = "structured_outputs"
_GUIDED = {"guided_regex": "regex", "guided_json": "json_schema", "guided_grammar": "grammar"}
NAMES = (RESPONSE_FORMAT, STRUCTURED, *_GUIDED)
_IN_STRUCTURED = {"regex": "regex", "json": "json_schema", "grammar": "grammar"}
_ANY_OBJECT = {"type": "object"}


def constraint_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The constraint of a request under olc's own names: `regex`, `json_schema` or `grammar`; empty without one.

    Raises UsageError for a shape that is none of those that are known, and for two constraints.
    """
    found: dict[str, Any] = {name: body[theirs] for theirs, name in _GUIDED.items() if body.get(theirs) is not None}
    given = [theirs for theirs in NAMES if body.get(theirs) is not None]
    if body.get(RESPONSE_FORMAT) is not None:
        found |= _response_format(body[RESPONSE_FORMAT])
    if body.get(STRUCTURED) is not None:
        found |= _structured(body[STRUCTURED])
    if found and len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are both given", "send one of them", code="constraint_combined")
    return found


def _response_format(value: Any) -> dict[str, Any]:
    """`{"type": "json_schema", "json_schema": {"schema": …}}`, `{"type": "json_object"}` or `{"type": "text"}`."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": _ANY_OBJECT}
    if kind == "json_schema" and isinstance(inner := value.get("json_schema"), dict) and inner.get("schema") is not None:
        return {"json_schema": inner["schema"]}
    raise _unknown(RESPONSE_FORMAT, value, '{"type": "json_schema", "json_schema": {"schema": {…}}}')


def _structured(value: Any) -> dict[str, Any]:
    """`{"json": …}`, `{"regex": …}`, `{"grammar": …}` or `{"json_object": true}`."""
    if isinstance(value, dict):
        asked = {name: one for name, one in value.items() if one is not None and one is not False}
        if "choice" in asked:
            raise UsageError(
                f"{STRUCTURED} has choice", "send choices: the most likely of them is found", code="unsupported_option"
            )
        known = {own: asked[theirs] for theirs, own in _IN_STRUCTURED.items() if theirs in asked}
        if asked.get("json_object") is True:
            known["json_schema"] = _ANY_OBJECT
        if len(asked) == len(known) == 1:
            return known
    raise _unknown(STRUCTURED, value, 'one of {"json": {…}}, {"regex": "…"} and {"grammar": "…"}')


def structured(name: str, source: str) -> dict[str, Any]:
    """`structured_outputs` of a constraint, for a server that is not olc's. name: its kind here."""
    theirs = next(theirs for theirs, own in _IN_STRUCTURED.items() if own == name)
    return {theirs: json.loads(source) if name == "json_schema" else source}


def _unknown(name: str, value: Any, wanted: str) -> UsageError:
    text = json.dumps(value, default=repr)
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    return UsageError(f"{name} is {shown}", f"send {wanted}", code="unsupported_option")
