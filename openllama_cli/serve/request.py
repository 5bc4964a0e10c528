"""OpenAI's completions request: read, checked, and made into rows for the decode loop."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import OlcError
from openllama_cli.generation.decode.config import TEXTS, SamplingConfig
from openllama_cli.generation.text.token_ids import resolve
from openllama_cli.openai_api.constraints import constraint_fields
from openllama_cli.serve.choices import Choosing, branched, read_choices
from openllama_cli.serve.errors import bad, of_olc

if TYPE_CHECKING:
    from openllama_cli.generation.decode.request import Request
    from openllama_cli.models.tokenizer.base import Tokenizer
    from openllama_cli.serve.engine import Facts

# OpenAI's defaults.
DEFAULTS = {"max_tokens": 16, "temperature": 1.0}
_SAMPLING = tuple(field.name for field in fields(SamplingConfig))
# Of one request: prompts times `best_of`.
MOST_ROWS = 1024
# OpenAI's has four. All are looked for after every token, in the one thread that all requests share.
MOST_STOPS = 64
# Log-probabilities in one answer: some 280 bytes of memory each until the answer has been sent.
MOST_LOGPROBS = 2_000_000
# Candidates of a traced token where `logprobs` does not say how many. Each counts as so many log-probabilities.
TRACED = 5
_WEIGHT = 3
# What other servers know and this one does not: values that ask for nothing, and what to do otherwise.
_ABSENT: dict[str, tuple[tuple[Any, ...], str]] = {
    "suffix": (("",), "leave it out: these models complete a text only at its end"),
    "messages": ((), "send a prompt: a base model completes text and has no chat messages"),
    "use_beam_search": ((False,), "leave it out, or send best_of"),
    "bad_words": (([],), "send them as ban"),
    "prompt_logprobs": ((0,), "send echo and logprobs"),
    "echo_logprobs": ((False,), "send echo and logprobs"),
}


@dataclass(frozen=True)
class Prompt:
    """One prompt. tokens: that are run; the first `hidden` of them are in no answer. text: what an echo shows."""

    tokens: tuple[int, ...]
    text: str
    hidden: int = 0

    @property
    def shown(self) -> tuple[int, ...]:
        """The tokens that answers count and list."""
        return self.tokens[self.hidden :]


@dataclass(frozen=True)
class CompletionRequest:
    """A request that can be run.

    sampling: of all its rows but the seed, which is one of `seeds`, one a prompt (None if greedy). n of best_of completions of
    each prompt are answered. logprobs: whether they are part of the answer. tokens: whether ids and entropies are. trace: how
    many candidates of each token are traced, None for none.
    draws_by_choice: random numbers are those of the row's place in the request, not of its place among the prompt's. draws_as:
    the random numbers are those of this row of a batch. no_bos: whether prompts of ids lacked the BOS that the model was
    trained with. choosing: from what the answers are chosen, with prompts that end where the choices begin; None where prompts
    are completed.
    """

    prompts: tuple[Prompt, ...]
    sampling: SamplingConfig
    seeds: tuple[int | None, ...]
    n: int
    best_of: int
    echo: bool
    logprobs: bool
    stream: bool
    include_usage: bool
    tokens: bool
    draws_by_choice: bool
    draws_as: int | None
    no_bos: bool
    choosing: Choosing | None = None
    trace: int | None = None

    @property
    def running(self) -> tuple[Prompt, ...]:
        """The prompts that are run, of which the answers may not show all."""
        neutral = None if self.choosing is None else self.choosing.neutral
        return self.prompts if neutral is None else (*self.prompts, Prompt(neutral.prompt, ""))

    @property
    def scored(self) -> bool:
        """Whether the prompts are scored too."""
        return self.echo and (self.logprobs or self.tokens)

    @property
    def draws(self) -> list[int]:
        """Which random numbers each row draws, the samples of a prompt side by side."""
        from openllama_cli.generation.decode.request import draws_of

        count = len(self.prompts) * self.best_of
        return [row if self.draws_by_choice else draws_of(self.draws_as, row % self.best_of) for row in range(count)]

    def rows(self) -> "list[Request]":
        """All rows, the samples of a prompt side by side."""
        from openllama_cli.generation.decode.request import Request

        if self.choosing is not None:
            rows = enumerate(self.choosing.rows)
            return [Request(row, one.prompt, self.sampling, branches=one.branches) for row, one in rows]
        return [
            Request(
                row,
                self.prompts[row // self.best_of].tokens,
                replace(self.sampling, seed=self.seeds[row // self.best_of]),
                self.scored,
                draws_as=draws,
                trace=self.trace,
            )
            for row, draws in enumerate(self.draws)
        ]


def read_request(
    body: Mapping[str, Any], tokenizer: "Tokenizer", facts: "Facts", *, always_bos: bool = False
) -> CompletionRequest:
    """What a request asks for. always_bos: put BOS in front of prompts of ids that lack it. Raises ApiError."""
    for name, (harmless, remedy) in _ABSENT.items():
        value = body.get(name)
        if value is not None and not any(value == allowed for allowed in harmless):
            raise bad(f"{name} is {shown(value)}, which this server does not have; {remedy}", name, "unsupported_option")
    own = _object(body, "olc", ("tokens", "trace", "draws_by_choice", "draws_as", "fit"))
    choices = read_choices(body)
    if choices is not None:
        return _choosing(branched(body, choices, tokenizer, facts), body)
    options = _object(body, "stream_options")
    stream = _flag(body, "stream")
    if options and not stream:
        raise bad("stream_options are only for streams; leave them out, or send stream: true", "stream_options")
    sampling = _sampling(body)
    logprobs, tokens, fit = sampling.logprobs is not None, _flag(own, "tokens", "olc."), _flag(own, "fit", "olc.")
    trace = (sampling.logprobs or TRACED) if _flag(own, "trace", "olc.") else None
    if trace is not None and not tokens:
        raise bad("olc.trace is a part of each of olc.tokens; send tokens: true too", "olc.trace")
    draws_as = own.get("draws_as")
    if draws_as is not None and (type(draws_as) is not int or draws_as < 0):
        raise bad(f"olc.draws_as is {shown(draws_as)}; send an integer from 0", "olc.draws_as")
    n = _count(body, "n", 1)
    best_of = _count(body, "best_of", n)
    if best_of < n:
        raise bad(f"best_of is {best_of} and n is {n}; best_of must not be less", "best_of")
    if stream and best_of > n:
        raise bad("best_of cannot be streamed; leave out stream, or send only n", "best_of", "unsupported_option")
    try:
        sampling = resolve(sampling, tokenizer, facts.vocabulary)
    except OlcError as error:
        raise of_olc(error) from error
    prompts = _prompts(body, tokenizer, facts, always_bos=always_bos)
    if len(prompts) * best_of > MOST_ROWS:
        message = f"{len(prompts)} prompts with {best_of} completions each are more than {MOST_ROWS}; send several requests"
        raise bad(message, "best_of" if best_of > 1 else "prompt", "too_many_completions")
    _check_lengths(prompts, sampling.max_tokens, facts, given=body.get("max_tokens") is not None and not fit)
    if sampling.logprobs is not None or trace is not None:
        each = (sampling.logprobs or 0) + 1 + _WEIGHT * (trace or 0)
        _check_logprobs(prompts, best_of, each, sampling.max_tokens, facts, echo=_flag(body, "echo"))
    if not logprobs and (tokens or best_of > n):
        sampling = replace(sampling, logprobs=0)
    seeds: list[int | None] = [None] * len(prompts)
    if not sampling.greedy:
        # Without a seed, equal prompts of one request are to get different texts.
        seeds = [secrets.randbits(31) if sampling.seed is None else sampling.seed for _ in prompts]
    bos = tokenizer.bos_id
    return CompletionRequest(
        prompts=prompts,
        sampling=sampling,
        seeds=tuple(seeds),
        n=n,
        best_of=best_of,
        echo=_flag(body, "echo"),
        logprobs=logprobs,
        stream=stream,
        include_usage=_flag(options, "include_usage", "stream_options."),
        tokens=tokens,
        draws_by_choice=_flag(own, "draws_by_choice", "olc."),
        draws_as=draws_as,
        no_bos=bos is not None and any(prompt.tokens[0] != bos for prompt in prompts),
        trace=trace,
    )


def _choosing(choosing: Choosing, body: Mapping[str, Any]) -> CompletionRequest:
    """The request whose answers are chosen: nothing of it is sampled, echoed or streamed."""
    texts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
    if len(texts) > MOST_ROWS:
        raise bad(f"{len(texts)} prompts are more than {MOST_ROWS}; send several requests", "prompt", "too_many_completions")
    return CompletionRequest(
        prompts=tuple(Prompt(one.prompt, text) for one, text in zip(choosing.prompts, texts, strict=True)),
        sampling=SamplingConfig(max_tokens=0),
        seeds=(None,) * len(texts),
        n=1,
        best_of=1,
        echo=False,
        logprobs=False,
        stream=False,
        include_usage=False,
        tokens=False,
        draws_by_choice=False,
        draws_as=0,
        no_bos=False,
        choosing=choosing,
    )


def shown(value: Any) -> str:
    """A value in a message, short."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _sampling(body: Mapping[str, Any]) -> SamplingConfig:
    try:
        body = {**body, **constraint_fields(body)}
    except OlcError as error:
        raise of_olc(error) from error
    given = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    for name in TEXTS:
        texts = given.get(name)
        if (isinstance(texts, list) and "" in texts) or texts == "":
            raise bad(f"{name} has an empty text, which is everywhere; leave it out", name)
        if isinstance(texts, list) and len(texts) > MOST_STOPS:
            raise bad(f"{name} has {len(texts)} texts; send {MOST_STOPS} at most", name, "too_many_stops")
    try:
        return SamplingConfig.from_given({**DEFAULTS, **given}, shown=shown)
    except OlcError as error:
        raise of_olc(error) from error


def _object(body: Mapping[str, Any], name: str, known: Sequence[str] = ()) -> Mapping[str, Any]:
    """known: the names that it may have, all of them without any."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(f"{name} is {shown(value)}; send an object", name)
    unknown = [key for key in value if known and key not in known]
    if unknown:
        raise bad(f"{name} has {shown(unknown[0])}; it may have {', '.join(known[:-1])} and {known[-1]}", name)
    return value


def _flag(body: Mapping[str, Any], name: str, where: str = "") -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad(f"{where}{name} is {shown(value)}; send true or false", f"{where}{name}")
    return bool(value)


def _count(body: Mapping[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not 1 <= value <= MOST_ROWS:
        raise bad(f"{name} is {shown(value)}; send an integer from 1 to {MOST_ROWS}", name)
    return value


def _prompts(body: Mapping[str, Any], tokenizer: "Tokenizer", facts: "Facts", *, always_bos: bool) -> tuple[Prompt, ...]:
    given = body.get("prompt")
    bos = body.get("add_special_tokens", True) is not False
    if given is None:
        raise bad("there is no prompt; send a text, a list of token ids, or a list of these", "prompt", "missing_prompt")
    several = isinstance(given, list) and bool(given) and isinstance(given[0], (str, list))
    prompts = given if several else [given]
    if len(prompts) > MOST_ROWS:
        raise bad(f"{len(prompts)} prompts are more than {MOST_ROWS}; send several requests", "prompt", "too_many_completions")
    try:
        return tuple(_prompt(prompt, tokenizer, facts, bos=bos, always_bos=always_bos) for prompt in prompts)
    except OlcError as error:
        raise of_olc(error) from error


def _prompt(given: Any, tokenizer: "Tokenizer", facts: "Facts", *, bos: bool, always_bos: bool) -> Prompt:
    if isinstance(given, str):
        return Prompt(tuple(tokenizer.encode(given, bos=bos)), given)
    # type() and not isinstance: True is an int in Python.
    if not isinstance(given, list) or not given or not all(type(token) is int for token in given):
        what = "an empty list" if given == [] else shown(given)
        raise bad(f"the prompt is {what}; send a text, a list of token ids, or a list of these", "prompt", "invalid_type")
    for token in given:
        if not 0 <= token < facts.vocabulary or token in facts.pieceless:
            message = f"token id {token} has no meaning in this model; its ids are 0 to {facts.vocabulary - 1}"
            raise bad(message, "prompt", "token_id_out_of_range")
    tokens = tuple(given)
    hidden = always_bos and tokenizer.bos_id is not None and tokens[0] != tokenizer.bos_id
    return Prompt(
        (tokenizer.bos_id, *tokens) if hidden and tokenizer.bos_id is not None else tokens,
        tokenizer.decode(tokens),
        int(hidden),
    )


def _check_lengths(prompts: Sequence[Prompt], max_tokens: int, facts: "Facts", *, given: bool) -> None:
    for prompt in prompts:
        length, context = len(prompt.tokens), facts.context
        if length == 0:
            message = f"the prompt is empty, and {facts.name} has no BOS token to start from; send a text"
            raise bad(message, "prompt", "empty_prompt")
        # A length that nobody asked for ends where the context does; one token is the least that there is.
        least = max_tokens if given else min(max_tokens, 1)
        if length + least > context:
            with_bos = ", with the BOS of --always-bos," if prompt.hidden else ""
            message = (
                f"the prompt has {length} tokens{with_bos} and max_tokens is {least}: {length + least} in all, "
                f"but the model's context is {context}; send fewer"
            )
            raise bad(message, "prompt", "context_length_exceeded")


def _check_logprobs(prompts: Sequence[Prompt], best_of: int, each: int, max_tokens: int, facts: "Facts", *, echo: bool) -> None:
    """each: log-probabilities of a token."""
    new = [min(max_tokens, facts.context - len(prompt.tokens)) for prompt in prompts]
    tokens = best_of * (sum(new) + echo * sum(len(prompt.shown) for prompt in prompts))
    if tokens * each > MOST_LOGPROBS:
        echoed = ", echoed prompts included," if echo else ""
        message = (
            f"{len(prompts) * best_of} completions may have {tokens} tokens{echoed} with {each} logprobs each: "
            f"{tokens * each} in all, but {MOST_LOGPROBS} is the most; send several requests, or fewer logprobs"
        )
        raise bad(message, "logprobs", "too_many_logprobs")
