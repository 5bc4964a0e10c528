"""The rows of an output of `olc batch`, and the completions of a JSON result, as what two of them are compared by."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openllama_cli.batch.input.rows import default_id

# Beyond them a number is no log-probability, whatever its place: a little above 0 some are by rounding.
_LEAST, _MOST = -1e30, 1.0


class NotARowError(Exception):
    """A JSON document that is neither a row of an output nor a JSON result: says why."""


@dataclass(frozen=True, slots=True)
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


def entries(document: Any, place: int) -> Iterator[Entry]:
    """The entries of a line of a file. place: how many entries the file has before it. Raises NotARowError."""
    if not isinstance(document, dict):
        raise NotARowError("it is not a JSON object")
    if isinstance(document.get("response"), dict):
        yield from _openai(document)
    elif "custom_id" in document and "text" in document:
        yield from _rows(document)
    elif "olc_journal" in document:
        raise NotARowError("it is the journal of a batch; name its OUTPUT")
    elif "olc_record" in document:
        if document.get("command", "batch") == "batch":
            raise NotARowError("it is the record of a batch; name its OUTPUT")
        raise NotARowError("it is the record of a result; name the result that it was in")
    elif isinstance(document.get("choices"), list):
        for number, choice in enumerate(_objects(document["choices"])):
            yield _choice(default_id(place + number), choice, document.get("model"))
    elif isinstance(document.get("completions"), list):
        for number, completion in enumerate(_objects(document["completions"])):
            yield _generated(default_id(place + number), completion, document.get("model"))
    elif isinstance(document.get("traces"), list):
        for number, trace in enumerate(_objects(document["traces"])):
            yield _generated(default_id(place + number), trace | {"tokens": _traced(trace)}, document.get("model"))
    elif isinstance(document.get("checks"), list):
        for number, check in enumerate(_objects(document["checks"])):
            yield _generated(default_id(place + number), check, document.get("model"))
    elif "entries" in document and "totals" in document:
        raise NotARowError("it is the result of olc score; olc replay A --against B compares two")
    else:
        raise NotARowError("it has no custom_id with a text or a response, no choices and no completions")


def _rows(document: dict[str, Any]) -> Iterator[Entry]:
    """A line in olc's own shape; the second and later samples of a row get their numbers behind its custom_id."""
    yield (first := _row(document))
    samples = document.get("samples")
    for number, sample in enumerate(_objects(samples)[1:] if isinstance(samples, list) and first.error is None else (), 1):
        text, reason = _text(sample.get("text"), "text"), _text(sample.get("finish_reason"), "finish_reason")
        key, scored = _numbered(first.key, number), _scored(sample.get("logprobs"))
        yield Entry(key, first.prompt, text, reason, None, None, *scored)


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


def _openai(document: dict[str, Any]) -> Iterator[Entry]:
    """A line in OpenAI's shape; the second and later choices of a row get their numbers behind its custom_id."""
    key, body = str(document.get("custom_id")), document["response"].get("body")
    body = body if isinstance(body, dict) else {}
    error, choices = document.get("error") or body.get("error"), body.get("choices")
    if error is not None or not choices:
        yield Entry(key, None, None, None, _code(error))
        return
    for number, choice in enumerate(_objects(choices)):
        yield _choice(_numbered(key, number), choice, body.get("model"))


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


def _scored(
    logprobs: Any,
) -> tuple[list[str] | None, Sequence[float | None], Sequence[Mapping[str, float] | None], Sequence[int]]:
    """Tokens, their log-probabilities, alternatives and places, of OpenAI's `logprobs`; nothing of what is not in its form."""
    tokens = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not set(map(type, tokens)) <= {str}:
        return None, (), (), ()
    own, top, offsets = (logprobs.get(name) for name in ("token_logprobs", "top_logprobs", "text_offset"))
    return (
        tokens,
        own if _are_logprobs(own, len(tokens)) else (),
        top if isinstance(top, list) and len(top) == len(tokens) else (),
        offsets if isinstance(offsets, list) and len(offsets) == len(tokens) and set(map(type, offsets)) <= {int} else (),
    )


def _are_logprobs(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(value is None or is_logprob(value) for value in values)


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
