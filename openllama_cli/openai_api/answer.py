"""What a completions server answered: JSON read without surprises, completions that are ones, and errors in a few words."""

import json
import math
import re
from typing import Any

# An answer's: far more than a completion with all its log-probabilities.
MOST_BYTES = 64 << 20
_LONGEST_MESSAGE = 300
_CODE = re.compile("[a-z][a-z0-9_]{0,59}")


class BadAnswerError(Exception):
    """An answer that is not what was asked for: says why."""


def parse(data: bytes) -> Any:
    """The JSON of an answer; numbers that JSON does not have (NaN, infinity) are null. Raises BadAnswerError."""
    try:
        return json.loads(data, parse_constant=lambda name: None, parse_float=_finite)
    except (ValueError, RecursionError) as problem:
        raise BadAnswerError(f"the answer is not JSON: {problem}") from None


def completion(data: bytes, choices: int = 1) -> dict[str, Any]:
    """An answer with completions. choices: how many it must have. Raises BadAnswerError."""
    body = parse(data)
    found = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(found, list):
        raise BadAnswerError("the answer has no choices")
    if len(found) < choices:
        raise BadAnswerError(f"the answer has {len(found)} of {choices} choices")
    if not all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in found):
        raise BadAnswerError("a choice of the answer has no text")
    return dict(body)


def usage(body: dict[str, Any]) -> dict[str, int] | None:
    """The counts of tokens, in the order of olc's own; None where the server gave none."""
    given = body.get("usage")
    if not isinstance(given, dict):
        return None
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    counts = {name: given[name] for name in names if type(given.get(name)) is int}
    if "total_tokens" not in counts and len(counts) == 2:
        counts["total_tokens"] = sum(counts.values())
    return counts if len(counts) == len(names) else None


def refusal(data: bytes) -> tuple[str | None, str]:
    """The code, if it is one for machines, and the message of an answer that is an error, in whichever form it came."""
    try:
        body = parse(data)
    except BadAnswerError:
        return None, _one_line(data[:1000].decode(errors="replace"))
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return None, _one_line(str(error))
    message = next((error[name] for name in ("message", "detail", "error") if error.get(name)), "")
    text = _one_line(message if isinstance(message, str) else json.dumps(message))
    code = error.get("code")
    if isinstance(code, str) and _CODE.fullmatch(code):
        return code, text
    # vLLM's code is the status, llama-cpp-python's null.
    return ("context_length_exceeded" if "context length" in text.lower() else None), text


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def dump(document: Any) -> bytes:
    """A document as `parse` reads it."""
    return json.dumps(document).encode()
