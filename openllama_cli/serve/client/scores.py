"""A text that a server scores: its own with ids in windows, others with one request of OpenAI's, `echo` with `logprobs`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.text.scoring import Prepared, Score, cut, plan
from openllama_cli.serve.client.asked import Asked
from openllama_cli.serve.client.completions import ask, ask_for_tokens, not_an_answer
from openllama_cli.serve.client.find import FoundServer


@dataclass(frozen=True)
class ServedScore:
    """A score. prepared: how the tokens ran; None for servers other than olc's. olc: what olc's says of itself."""

    score: Score
    prepared: Prepared | None
    olc: dict[str, Any]


def ask_score(
    server: FoundServer, text: str, context: str, *, stride: int | None, top: int, record: bool = False
) -> ServedScore:
    """Have a text scored. stride, top: see `prepare` and `Run.scoring`. record: `olc` is to have that of a window.

    Raises UsageError as these; NotServedError, or for a server that was named OlcError.
    """
    sampling = SamplingConfig(max_tokens=0, logprobs=max(top, 1))
    try:
        if server.olc:
            return _own(server, text, context, stride, sampling, record=record)
        return _other(server, text, context, stride, sampling)
    finally:
        server.connection.close()


def _own(
    server: FoundServer, text: str, context: str, stride: int | None, sampling: SamplingConfig, *, record: bool
) -> ServedScore:
    told = ask_for_tokens(server, context + text)
    try:
        # An older server does not know spans.
        tokens, spans, positions, bos = told["tokens"], told["spans"], told["max_model_len"], told["bos_id"]
    except (LookupError, TypeError) as problem:
        raise not_an_answer(server, f"no {problem}") from problem
    lead = int(tokens[:1] == [bos])
    first, starts = cut(spans, len(context), lead)
    prepared = plan(tokens, first, starts, lead, positions=positions, stride=stride)
    entries: list[dict[str, Any]] = []
    tops: list[dict[str, float] | None] = []
    olc: dict[str, Any] = {}
    for begin, end, scored in prepared.windows:
        part = tokens[:end] if begin == 0 else tokens[:lead] + tokens[begin:end]
        body = ask(server, Asked([""], sampling, echo=True, tokens=True, ids=part, record=record))
        wanted = max(scored, first) - end  # From the end of the window.
        try:
            choice, olc = body["choices"][0], body["olc"]
            entries += choice["olc"]["prompt"][wanted:]
            tops += choice["logprobs"]["top_logprobs"][wanted:]
        except (LookupError, TypeError) as problem:
            raise not_an_answer(server, problem) from problem
    try:
        score = Score(
            [entry["id"] for entry in entries],
            [entry["logprob"] for entry in entries],
            text,
            starts,
            [entry["rank"] for entry in entries],
            tops,
            len(prepared.windows),
        )
        if not len(score.tokens) == len(tops) == len(starts):
            raise ValueError(f"{len(entries)} of {len(starts)} tokens")
    except (LookupError, TypeError, ValueError) as problem:
        raise not_an_answer(server, problem) from problem
    return ServedScore(score, prepared, olc)


def _other(server: FoundServer, text: str, context: str, stride: int | None, sampling: SamplingConfig) -> ServedScore:
    """By vLLM, for example. Their BOS is in the list, and perhaps counted in its offsets."""
    name = server.connection.name
    if stride is not None:
        raise UsageError(
            f"{name} is not olc's own server, and others score no windows",
            "leave out --stride, or --server",
            code="server_kind",
        )
    choice = ask(server, Asked([context + text], sampling, echo=True))["choices"][0]
    try:
        told = choice["logprobs"]
        texts, values, tops = told["tokens"], told["token_logprobs"], told["top_logprobs"] or [None] * len(told["tokens"])
        offsets = _offsets(texts, values, told["text_offset"], context + text)
        if not len(texts) == len(values) == len(tops) == len(offsets) or not choice["text"].endswith(context + text):
            raise ValueError
    except (AttributeError, LookupError, TypeError, ValueError):
        raise OlcError(
            f"{name} does not tell how likely the tokens of a prompt are (echo with logprobs)",
            "name a server that does, such as olc serve or vLLM, or leave out --server",
            code="server_kind",
        ) from None
    ends = [*offsets[1:], len(context + text)]
    lead = int(offsets[1:2] == [0] and values[0] is None)
    first, starts = cut(list(zip(offsets, ends, strict=True)), len(context), lead)
    known = [None if top is None else dict(sorted(top.items(), key=lambda entry: -entry[1])) for top in tops[first:]]
    return ServedScore(Score([], values[first:], text, starts, [], known), None, {})


def _offsets(texts: Sequence[str], values: Sequence[float | None], given: Sequence[int], whole: str) -> list[int]:
    """Where each token starts, without the length of a BOS that the text does not have. Raises ValueError."""
    shift = 0
    if len(given) > 1 and values[0] is None and not whole.startswith(texts[0]) and given[1] - given[0] == len(texts[0]):
        shift = given[1]
    offsets = [min(max(offset - shift, 0), len(whole)) for offset in given]
    if any(after < before for before, after in pairwise(offsets)) or offsets[0] != 0:
        raise ValueError
    return offsets
