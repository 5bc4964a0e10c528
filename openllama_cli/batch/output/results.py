"""Finished rows: their lines of OUTPUT, and how they get into the journal, with annotations if those are wanted.

A result has the same bytes whenever and beside whatever it was made. The driver of the Ray engine handles results too, and has
no use for torch: it is imported only where a completion comes in.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.input.rows import Row
from openllama_cli.generation.constraints.config import told as matched

if TYPE_CHECKING:
    from openllama_cli.batch.journal.journal import Journal
    from openllama_cli.generation.choices.scores import ScoredChoice
    from openllama_cli.generation.text.completion import Completion
    from openllama_cli.generation.text.scoring import Score
    from openllama_cli.models.tokenizer.base import Tokenizer

# What OpenAI answers a request that cannot be run.
_BAD_REQUEST = 400
_SERVER_ERROR = 500
# Of a row's errors, those that are no fault of the row, and those of them that may not happen again.
_OF_SERVERS = frozenset({"server_error", "server_timeout", "server_answer"})
ENDED_BY_US = frozenset({"out_of_memory", "non_finite_logits", "worker_lost", *_OF_SERVERS})
MAY_PASS = frozenset({"out_of_memory", "worker_lost", *_OF_SERVERS})

# What `olc` says of an answer that was chosen.
_OF_CHOICES = ("choices", "normalize", "calibrated")
# Rows annotated together, and how long the first of them may wait. A crash costs no more than these.
MOST_ROWS = 32
MOST_SECONDS = 1.0

Annotate = Callable[[list[str]], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Result:
    """A finished row. index: the row's. code: of its error, None if it succeeded. document: its line of OUTPUT as an object.

    looped: whether the loop guard ended a text of it. incomplete: whether one is no match of what it has to match.
    """

    index: int
    code: str | None
    document: dict[str, Any]
    looped: bool = False
    incomplete: bool = False

    @property
    def text(self) -> str:
        """The completion, with the prompt in front if the row has `echo`; in OpenAI's shape that of its choice."""
        document = self.document
        text: str = document["response"]["body"]["choices"][0]["text"] if "response" in document else document["text"]
        return text

    def line(self, **more: Any) -> bytes:
        """The line of OUTPUT, JSON without newline. more: fields that stand at its end."""
        document = self.document | more
        # A lone surrogate cannot be written as UTF-8, but its JSON escape can.
        try:
            return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            return json.dumps(document, allow_nan=False).encode()


@dataclass
class Progress:
    """Counts of one run: rows that it finished, with errors or without, and tokens that it made."""

    rows: int = 0
    failed: int = 0
    tokens: int = 0

    def count(self, result: Result) -> None:
        """Count a finished row."""
        self.rows += 1
        self.failed += result.code is not None


class Results:
    """Writes results to the journal, with annotations if `annotate` is given.

    annotate: texts in, as many objects out, in types that JSON has. Rows then wait to be annotated together, and get a field
    `annotations`: what `annotate` returned for `Result.text`, null for a row that failed. A row's annotations depend only on
    its own text, and it is journalled once, with them: one that waits is not done yet, and is run again after a crash.

    looped, incomplete: how many rows of this run are; see `Result`.
    """

    def __init__(self, journal: "Journal", annotate: Annotate | None = None) -> None:
        self._journal, self._annotate = journal, annotate
        self._waiting: list[Result] = []
        self._since = 0.0
        self.looped = self.incomplete = 0

    def append(self, result: Result) -> None:
        """Keep a finished row. Raises OlcError when the disk refuses this one or one before it."""
        self.looped += result.looped
        self.incomplete += result.incomplete
        if self._annotate is None:
            self._journal.append(result.index, result.code, result.line())
        elif result.code is not None:
            self._journal.append(result.index, result.code, result.line(annotations=None))
        else:
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(result)
            if len(self._waiting) >= MOST_ROWS:
                self.flush()

    def flush_if_due(self) -> None:
        """`flush`, and have the journal on the disk, if a row has waited for a second."""
        if self._waiting and time.monotonic() - self._since >= MOST_SECONDS:
            self.flush()
        self._journal.sync_if_due()

    def flush(self) -> None:
        """Annotate and keep the rows that wait. Raises OlcError when the disk refuses."""
        waiting, self._waiting = self._waiting, []
        if waiting and self._annotate is not None:
            found = self._annotate([result.text for result in waiting])
            for result, annotations in zip(waiting, found, strict=True):
                self._journal.append(result.index, None, result.line(annotations=annotations))


def success(row: Row, completions: "Sequence[Completion]", tokenizer: "Tokenizer", model: str) -> Result:
    """A row that was completed, so often as it asks for. model: its name, for OpenAI's shape."""
    from openllama_cli.generation.text.completion import best_of, choice, usage

    assert row.sampling is not None
    echo = _echo(row, completions[0], tokenizer) if row.echo else None
    logprobs = row.sampling.logprobs is not None
    kept = [completions[place] for place in best_of(completions, row.samples)]
    how: Any = {"echo": echo, "logprobs": logprobs, "constraint": row.sampling.constraint}
    choices = [choice(place, one, tokenizer, **how) for place, one in enumerate(kept)]
    return _made(row, choices, usage(completions), model, {})


def chosen(row: Row, scored: "Sequence[ScoredChoice]", model: str) -> Result:
    """A row whose answer was chosen. scored: its choices. model: its name, for OpenAI's shape."""
    from openllama_cli.generation.choices.document import choice_of, olc_of, usage_of

    assert row.choices is not None
    own = olc_of(row.choices, scored)
    usage = usage_of(len(row.tokens or ()), [scored])
    if not row.openai:
        return _completed(row, [choice_of(0, scored) | {"olc": own}], usage)
    return _made(row, [choice_of(0, scored)], usage, model, {"olc": own})


def scored(row: Row, score: "Score", tokens: int) -> Result:
    """A row whose text was scored. tokens: that were run, its context's and BOS included."""
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    document = _document(row, None, None, usage, None) | {"score": score.totals()}
    return Result(row.index, None, document | dict(row.carried))


def _made(row: Row, choices: "Sequence[dict[str, Any]]", usage: dict[str, int], model: str, own: dict[str, Any]) -> Result:
    """own: what OpenAI's object has besides."""
    if not row.openai:
        return _completed(row, choices, usage)
    body = {
        "id": f"cmpl-{row.index}",
        "object": "text_completion",
        # The time would make other bytes of the same result.
        "created": 0,
        "model": model,
        "choices": list(choices),
        "usage": usage,
        **own,
    }
    return _answered(row, body)


def received(row: Row, body: dict[str, Any]) -> Result:
    """A row that a server completed. body: its answer, which OpenAI's shape has as it is."""
    from openllama_cli.openai_api.answer import usage

    own = body["choices"][0].get("olc")
    if row.openai:
        if isinstance(own, dict) and "choices" in own and len(body["choices"]) == 1:
            # Where those that were made here have them.
            body = body | {"olc": (body.get("olc") or {}) | {name: own[name] for name in _OF_CHOICES if name in own}}
        return _answered(row, body)
    return _completed(row, body["choices"], usage(body))


def _answered(row: Row, body: dict[str, Any]) -> Result:
    """An OpenAI line's row. body: the answer."""
    made = [_sample(choice) | _matched(row, choice) for choice in body["choices"]]
    return Result(row.index, None, _openai_document(row, 200, body, None), *_ends(made))


def _ends(made: Sequence[dict[str, Any]]) -> tuple[bool, bool]:
    """`looped` and `incomplete` of a row. made: its samples."""
    looped = any(one["finish_reason"] == "repetition" for one in made)
    return looped, any(not one.get("constraint", {}).get("complete", True) for one in made)


def _completed(row: Row, choices: "Sequence[dict[str, Any]]", usage: dict[str, int] | None) -> Result:
    made = [_sample(choice) | _matched(row, choice) for choice in choices[: row.samples]]
    document = _document(row, made[0]["text"], made[0]["finish_reason"], usage, None)
    document |= {name: made[0][name] for name in ("logprobs", "constraint") if name in made[0]}
    if row.samples > 1:
        document["samples"] = made
    if row.choices is not None:
        document["choices"] = choices[0]["olc"]["choices"]
    return Result(row.index, None, document | dict(row.carried), *_ends(made))


def _sample(choice: dict[str, Any]) -> dict[str, Any]:
    made = {"text": choice["text"], "finish_reason": _reason(choice)}
    return made if choice.get("logprobs") is None else made | {"logprobs": choice["logprobs"]}


def _matched(row: Row, choice: dict[str, Any]) -> dict[str, Any]:
    """Whether a text matches what the row asks for; of others than olc's servers it is to be seen here."""
    own = choice.get("olc")
    if isinstance(own, dict) and "constraint" in own:
        return {"constraint": own["constraint"]}
    if row.sampling is None or (row.echo and row.prompt is None):
        return {}
    return matched(row.sampling.constraint, choice["text"][len(row.prompt or "") if row.echo else 0 :])


def _reason(choice: dict[str, Any]) -> str | None:
    """OpenAI's reason, or olc's own where that one does not say it."""
    own = choice.get("olc")
    told = own if isinstance(own, dict) and "note" in own else choice
    return told.get("finish_reason")


def _echo(row: Row, completion: "Completion", tokenizer: "Tokenizer") -> str:
    """The prompt's text; of token ids up to where the completion's text begins, which has what they left unfinished."""
    if row.prompt is not None:
        return row.prompt
    ids = completion.prompt
    text = tokenizer.decode(ids)
    return text[: len(text) - tokenizer.unfinished(ids)] if completion.scored else text


def failure(row: Row, code: str, message: str) -> Result:
    """A row that failed."""
    error = {"code": code, "message": message}
    if not row.openai:
        return Result(row.index, code, _document(row, None, None, None, error) | dict(row.carried))
    status = _SERVER_ERROR if code in ENDED_BY_US else _BAD_REQUEST
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return Result(row.index, code, _openai_document(row, status, body, error))


def _document(
    row: Row, text: str | None, reason: str | None, usage: dict[str, int] | None, error: dict[str, str] | None
) -> dict[str, Any]:
    return {
        "custom_id": row.custom_id,
        "index": row.index,
        "prompt": row.prompt,
        "text": text,
        "finish_reason": reason,
        "usage": usage,
        "error": error,
    }


def _openai_document(row: Row, status: int, body: dict[str, Any], error: dict[str, str] | None) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"req-{row.index}", "body": body}
    return {"id": f"batch_req_{row.index}", "custom_id": row.custom_id, "response": response, "error": error}
