"""The decode loop: rows of token ids in, one event per token out. `complete`, `generate` and `batch` all run on it.

A reader of the published Llama `generate` finds its parts here, with these differences:

- prompt lengths: there the shortest prompt is prefilled and longer ones are fed token by token; here each row is prefilled
  whole by itself, then all rows take their decode steps together, each at its own position.
- cache and mask: there one block for the batch and a causal mask over it; here each row owns its cache (`cache.KVCache`)
  and attends to nothing else, so there is no padding to mask.
- EOS: there a finished row runs along until all are done; here it leaves at once and a waiting row takes its place. An EOS
  inside a prompt is an ordinary token and cuts nothing.
- logprobs: there they come from the tempered or untempered logits shifted by one, and the first token of an echoed prompt
  gets 0.0; here they are of the untempered distribution, and the first token, which nothing predicts, has none. When all
  prompts fill the context there the logprobs are not shifted; here they are those of a full forward pass.
- random numbers: there one global generator; here each row has its own (`sampling.row_generator`).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from openllama_cli.errors import GenerationError, OlcError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.prefix import PrefixCache
from openllama_cli.generation.decode.sampling import choose_token, log_probabilities, row_generator
from openllama_cli.generation.decode.speculation import draft
from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.transformers_forward import Forward

# "eos": the model ended; "stop": a stop string; "length": max tokens; "context": no position is left.
FinishReason = Literal["eos", "stop", "length", "context"]


@dataclass(frozen=True)
class Request:
    """One row's work.

    row: names it in events and, with the seed, fixes its random numbers. draws_as: fixes them in its place, if given.
    prompt: token ids, at least one, at most the model's context.
    eos: ids that end the row.
    watch: told every token taken that is not EOS; true ends the row (stop strings: text is not known here).
    score_prompt: also report the prompt's log-probabilities.
    speculate: tokens at most that are guessed and checked in one pass (see `speculation`); changes no result.
    """

    row: int
    prompt: Sequence[int]
    sampling: SamplingConfig
    eos: frozenset[int] = frozenset()
    watch: Callable[[int], bool] | None = None
    score_prompt: bool = False
    draws_as: int | None = None
    speculate: int = 0


@dataclass(frozen=True)
class Scored:
    """A token with the log-probability (natural) that the model gave it, and the K likeliest in its place.

    entropy: of the distribution it was taken from, in bits. logprob is None where nothing predicts the token.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    entropy: float | None = None


@dataclass(frozen=True)
class Prefilled:
    """A row's prompt has been through the model. scored: one entry per prompt token, if asked for."""

    row: int
    scored: tuple[Scored, ...] = ()


@dataclass(frozen=True)
class Step:
    """A row took a token, or ended, or both. The last event of a row has a finish_reason or an error.

    scored: None where the row ends without taking a token (max tokens 0, context full, error).
    """

    row: int
    scored: Scored | None = None
    finish_reason: FinishReason | None = None
    error: OlcError | None = None


Event = Prefilled | Step


@dataclass
class _Row:
    """A row in flight. tokens: prompt and completion. left: tokens that may still be taken."""

    request: Request
    cache: KVCache
    tokens: list[int]
    left: int
    at_limit: FinishReason
    generator: torch.Generator | None
    finished: bool = field(default=False)


def decode_rows(
    forward: Forward, requests: Iterable[Request], *, max_rows: int = 16, prefixes: PrefixCache | None = None
) -> Iterator[Event]:
    """Run all requests, at most `max_rows` at a time; a row that ends makes place for the next one.

    prefixes: reuses what prompts have in common with the ones before them; changes no result.

    Events of one row come in order: Prefilled, then a Step per token; rows are interleaved. `requests` is read only as
    places become free. A row that fails (not finite logits, prompt over the context) ends with its error; others go on.
    Closing the iterator stops the work.
    """
    waiting = iter(requests)
    active: list[_Row] = []
    # No name here may hold on to a row: the cache of one that ended is to be free before the next one takes its own.
    while True:
        while len(active) < max_rows and (request := next(waiting, None)) is not None:
            yield from _admit(forward, request, prefixes, active)
        if not active:
            return
        yield from _step(forward, active)
        active = [row for row in active if not row.finished]


def _step(forward: Forward, active: Sequence[_Row]) -> Iterator[Step]:
    """A token for every row, several where guesses were right. Each has taken one that the model has not seen yet."""
    plain = []
    for row in active:
        guessed = draft(row.tokens, min(row.request.speculate, row.left - 1)) if row.request.speculate else []
        if guessed:
            yield from _verify(forward, row, guessed)
        else:
            plain.append(row)
    if not plain:
        return
    logits = forward.decode([row.tokens[-1] for row in plain], [row.cache for row in plain])  # [rows, vocab]
    if all(row.request.sampling.greedy for row in plain):
        # Finding the largest is quicker here than asking a GPU for each row's; sorting, for sampling, is not.
        logits = logits.cpu()
    for row, row_logits in zip(plain, logits, strict=True):
        yield _take(row, row_logits)


def _admit(forward: Forward, request: Request, prefixes: PrefixCache | None, active: list[_Row]) -> Iterator[Event]:
    """Prefill one row and take its first token; it joins the active ones unless it ended there."""
    length = len(request.prompt)
    if not 1 <= length <= forward.context:
        yield Step(request.row, error=over_context(length, forward.context))
        return
    room = forward.context - length
    left = min(request.sampling.max_tokens, room)
    row = _Row(
        request=request,
        # The last token taken is never run, so it needs no position.
        cache=forward.new_cache(length + max(left - 1, 0)),
        tokens=list(request.prompt),
        left=left,
        at_limit="length" if request.sampling.max_tokens <= room else "context",
        generator=_generator(request),
    )
    logits = None
    if left > 0 or request.score_prompt:
        logits = _prefill(forward, request, row.cache, prefixes)  # [1 or n, vocab]
    first = Step(request.row, finish_reason=row.at_limit) if left == 0 or logits is None else _take(row, logits[-1])
    if first.finish_reason is None and first.error is None:
        active.append(row)
    yield Prefilled(request.row, score_prompt(request, logits) if request.score_prompt and logits is not None else ())
    yield first


def _generator(request: Request) -> torch.Generator | None:
    if request.sampling.greedy:
        return None
    return row_generator(request.sampling.seed or 0, request.row if request.draws_as is None else request.draws_as)


def _prefill(forward: Forward, request: Request, cache: KVCache, prefixes: PrefixCache | None) -> torch.Tensor:
    """Run a prompt, without the beginning that an earlier row has in its cache. A prompt to be scored runs whole."""
    if prefixes is None or request.score_prompt:
        return forward.prefill(request.prompt, cache, every=request.score_prompt)
    known = prefixes.restore(request.prompt, cache)
    logits = forward.prefill(request.prompt[known:], cache)
    prefixes.remember(request.prompt, cache)
    return logits


def over_context(length: int, context: int) -> GenerationError:
    """The error of a prompt that cannot run: empty, or longer than the context."""
    if length == 0:
        return GenerationError("the prompt has no tokens", "begin it with BOS", code="empty_prompt")
    return GenerationError(
        f"the prompt has {length} tokens, the model's context {context}",
        f"shorten the prompt by at least {length - context + 1} tokens",
        code="context_length_exceeded",
    )


def _take(row: _Row, logits: torch.Tensor) -> Step:
    """Choose the row's next token from [vocab] logits, and see whether the row ends with it."""
    request = row.request
    try:
        token = choose_token(logits, row.tokens, request.sampling, row.generator)
        stopped = token not in request.eos and request.watch is not None and request.watch(token)
    except OlcError as error:  # Logits that are not finite; a token that the tokenizer does not know.
        row.finished = True
        return Step(request.row, error=error)
    wanted = request.sampling.logprobs
    scored = Scored(token) if wanted is None else score(token, log_probabilities(logits), wanted)
    row.tokens.append(token)
    row.left -= 1
    reason = ending(request, token, stopped=stopped, limit=row.at_limit if row.left == 0 else None)
    row.finished = reason is not None
    return Step(request.row, scored, reason)


def _verify(forward: Forward, row: _Row, guessed: Sequence[int]) -> Iterator[Step]:
    """Run the last token and a guess of what follows in one pass; take tokens as long as the guess was right, and one more.

    Each token is chosen from the logits that it would have been chosen from without a guess, with the same random numbers.
    """
    logits = forward.prefill([row.tokens[-1], *guessed], row.cache, every=True)  # [1 + guessed, vocab]
    for place, guess in enumerate((*guessed, None)):
        yield _take(row, logits[place])
        if row.finished or row.tokens[-1] != guess:
            break
    # The token taken last has not been run, and what was guessed wrong never was.
    row.cache.truncate(len(row.tokens) - 1)


def ending(request: Request, token: int, *, stopped: bool, limit: FinishReason | None) -> FinishReason | None:
    """Why a row ends with this token, if it does: the model's own end comes before a stop string and before a limit."""
    if token in request.eos:
        return "eos"
    return "stop" if stopped else limit


def score_prompt(request: Request, logits: torch.Tensor) -> tuple[Scored, ...]:
    """Score a prompt: the logits after token i, [n, vocab], predict token i + 1; nothing predicts the first."""
    wanted = request.sampling.logprobs or 0
    logprobs = log_probabilities(logits)
    rest = (score(token, logprobs[place], wanted) for place, token in enumerate(request.prompt[1:]))
    return (Scored(request.prompt[0]), *rest)


def score(token: int, logprobs: torch.Tensor, count: int) -> Scored:
    """A token's log-probability, the `count` likeliest tokens and the entropy, from [vocab] log-probabilities."""
    values, tokens = logprobs.topk(min(count, logprobs.numel()))
    entropy = torch.special.entr(logprobs.exp()).sum() / math.log(2)
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Scored(token, float(logprobs[token]), top, float(entropy))
