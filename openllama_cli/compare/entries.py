"""The rows of an output of `olc batch`, and the completions of a JSON result, as what two of them are compared by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from openllama_cli.batch.input.rows import default_id

# Beyond them a number is no log-probability, whatever its place: a little above 0 some are by rounding.
_LEAST, _MOST = -1e30, 1.0


class NotARowError(Exception):
    """A JSON document that is neither a row of an output nor a JSON result: says why."""


@dataclass(slots=True)
class Entry:
    """One completion. What the file does not tell is None.

    key: by which it is matched: its custom_id, else its place in the file. error: its code.
    tokens: texts, or ids where the file has ids. logprobs: one a token, natural. top: for each token the log-probabilities of
    the most likely ones in its place, by their texts. offsets: where each token begins in the text. score: the log-probability
    of a prompt that was scored.
    """

    key: str
    prompt: str | None
    text: str | None
    finish_reason: str | None
    error: str | None = None
    model: str | None = None
    tokens: Sequence[str] | Sequence[int] | None = None
    logprobs: Sequence[float | None] = ()
    top: Sequence[Mapping[str, float] | None] = ()
    offsets: Sequence[int] = ()
    score: float | None = None


def entries(document: Any, place: int) -> list[Entry]:
    """The entries of a line of a file. place: how many entries the file has before it. Raises NotARowError."""
    if not isinstance(document, dict):
        raise NotARowError("it is not a JSON object")
    if isinstance(document.get("response"), dict):
        return _openai(document)
    if "custom_id" in document and "text" in document:
        return _rows(document)
    if "olc_journal" in document:
        raise NotARowError("it is the journal of a batch; name its OUTPUT")
    if "olc_record" in document:
        if document.get("command", "batch") == "batch":
            raise NotARowError("it is the record of a batch; name its OUTPUT")
        raise NotARowError("it is the record of a result; name the result that it was in")
    model = document.get("model")
    if isinstance(choices := document.get("choices"), list):
        return [_choice(default_id(number), choice, model) for number, choice in enumerate(_objects(choices), place)]
    if isinstance(completions := document.get("completions"), list):
        return [_generated(default_id(number), one, model) for number, one in enumerate(_objects(completions), place)]
    if isinstance(traces := document.get("traces"), list):
        completed = [trace | {"tokens": _traced(trace)} for trace in _objects(traces)]
        return [_generated(default_id(number), one, model) for number, one in enumerate(completed, place)]
    if isinstance(checks := document.get("checks"), list):
        completed = [_checked(check, document, number) for number, check in enumerate(_objects(checks))]
        return [_generated(default_id(number), one, model) for number, one in enumerate(completed, place)]
    if "entries" in document and "totals" in document:
        raise NotARowError("it is the result of olc score; olc replay A --against B compares two")
    raise NotARowError("it has no custom_id with a text or a response, no choices and no completions")


def _rows(document: dict[str, Any]) -> list[Entry]:
    """A line in olc's own shape; the second and later samples of a row get their numbers behind its custom_id."""
    found = [first := _row(document)]
    samples = document.get("samples")
    if isinstance(samples, list) and first.error is None:
        for number, sample in enumerate(_objects(samples)[1:], 1):
            text, reason = _text(sample.get("text"), "text"), _text(sample.get("finish_reason"), "finish_reason")
            key, scored = _numbered(first.key, number), _scored(sample.get("logprobs"))
            found.append(Entry(key, first.prompt, text, reason, None, None, *scored))
    return found


def _numbered(key: str, number: int) -> str:
    return f"{key} [{number}]" if number else key


def _row(document: dict[str, Any]) -> Entry:
    error = document.get("error")
    return Entry(
        str(document["custom_id"]),
        _text(document.get("prompt"), "prompt"),
        _text(document["text"], "text"),
        _text(document.get("finish_reason"), "finish_reason"),
        _code(error) if error is not None else None,
        None,
        *_scored(document.get("logprobs")),
        score=_score(document.get("score")),
    )


def _score(told: Any) -> float | None:
    value = told.get("logprob") if isinstance(told, dict) else None
    return float(value) if value is not None and is_logprob(value) else None


def _openai(document: dict[str, Any]) -> list[Entry]:
    """A line in OpenAI's shape; the second and later choices of a row get their numbers behind its custom_id."""
    key, body = str(document.get("custom_id")), document["response"].get("body")
    body = body if isinstance(body, dict) else {}
    error, choices = document.get("error") or body.get("error"), body.get("choices")
    if error is not None or not choices:
        return [Entry(key, None, None, None, _code(error))]
    model = body.get("model")
    return [_choice(_numbered(key, number), choice, model) for number, choice in enumerate(_objects(choices))]


def _choice(key: str, choice: dict[str, Any], model: Any) -> Entry:
    text, reason = _text(choice.get("text"), "text"), _text(choice.get("finish_reason"), "finish_reason")
    named = model if isinstance(model, str) else None
    return Entry(key, None, text, reason, None, named, *_scored(choice.get("logprobs")))


def _generated(key: str, completion: dict[str, Any], model: Any) -> Entry:
    """A completion of `olc generate --json`, which has ids."""
    tokens, logprobs = completion.get("tokens"), completion.get("logprobs")
    ids = tokens if isinstance(tokens, list) and set(map(type, tokens)) <= {int} else None
    return Entry(
        key,
        _text(completion.get("prompt"), "prompt"),
        _text(completion.get("text"), "text"),
        _text(completion.get("finish_reason"), "finish_reason"),
        None,
        model if isinstance(model, str) else None,
        ids,
        logprobs if ids is not None and isinstance(logprobs, list) and _are_logprobs(logprobs, len(ids)) else (),
    )


def _traced(trace: dict[str, Any]) -> list[Any] | None:
    """The ids of a prompt's steps in `olc generate --trace --json`, without a final EOS, as in a completion."""
    steps = trace.get("steps")
    ids = [step.get("token") if isinstance(step, dict) else None for step in steps] if isinstance(steps, list) else None
    return ids[:-1] if ids and trace.get("finish_reason") == "eos" else ids


def _checked(check: dict[str, Any], document: dict[str, Any], number: int) -> dict[str, Any]:
    """A prompt of `olc generate --check --json` as a completion: the record has its reason; a final EOS is no token of it."""
    try:
        reason = document["olc"]["record"]["completions"][number]["finish_reason"]
    except (LookupError, TypeError):
        return check
    tokens = check.get("tokens")
    return check | {"finish_reason": reason, "tokens": tokens[:-1] if reason == "eos" and isinstance(tokens, list) else tokens}


def _scored(
    logprobs: Any,
) -> tuple[list[str] | None, Sequence[float | None], Sequence[Mapping[str, float] | None], Sequence[int]]:
    """Tokens, their log-probabilities, alternatives and places, of OpenAI's `logprobs`; nothing of what is not in its form."""
    tokens = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not set(map(type, tokens)) <= {str}:
        return None, (), (), ()
    own, top, offsets = (logprobs.get(name) for name in ("token_logprobs", "top_logprobs", "text_offset"))
    count = len(tokens)
    return (
        tokens,
        own if _are_logprobs(own, count) else (),
        top if isinstance(top, list) and len(top) == count else (),
        offsets if isinstance(offsets, list) and len(offsets) == count and set(map(type, offsets)) <= {int} else (),
    )


def _are_logprobs(values: Any, count: int) -> bool:
    """Whether all are, or null; no NaN is among them, as no JSON has one."""
    if not isinstance(values, list) or len(values) != count:
        return False
    if (types := set(map(type, values))) != {float}:
        if not types <= {float, int, NoneType}:
            return False
        values = [value for value in values if value is not None]
    return not values or _LEAST <= min(values) <= max(values) <= _MOST


def is_logprob(value: Any) -> bool:
    """Whether it can be one, whatever stood in the file."""
    return type(value) in (float, int) and _LEAST <= value <= _MOST


def alternative(entry: Entry, place: int, token: object) -> float | None:
    """The log-probability that an entry gives to a token in one of its places, where it tells it."""
    top = entry.top[place] if place < len(entry.top) else None
    value = top.get(token) if isinstance(top, dict) and isinstance(token, str) else None
    return float(value) if value is not None and is_logprob(value) else None


def _objects(values: list[Any]) -> list[dict[str, Any]]:
    if not all(isinstance(value, dict) for value in values):
        raise NotARowError("one of its choices is not an object")
    return values


def _text(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise NotARowError(f"its {name} is not a string")


def _code(error: Any) -> str:
    return str(error.get("code")) if isinstance(error, dict) and error.get("code") else "error"
