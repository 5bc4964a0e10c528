"""A record run again, or held against another one: where they part, and whether rounding can be why."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.records.read import Completed, Made, Record

if TYPE_CHECKING:
    from openllama_cli.api.run import Runnable
    from openllama_cli.generation.decode.request import Scored

# How far the log-probability of one token was seen to differ between two runs that add the same numbers in another order: other
# threads, kernels, batch sizes. docs/reproducibility.md has the measurements. With quantized weights the activations are
# quantized too, or rounded to bfloat16, and a number that is rounded the other way moves all that follow.
ROUNDING = {"float32": 1e-4, "float16": 0.1, "bfloat16": 0.4}
QUANTIZED_ROUNDING = 0.5
# Options that have no part in which token greedy decoding takes.
_WITHOUT_PART = ("max_tokens", "seed", "stop", "stop_token_ids", "stop_at", "loop_guard", "logprobs")
# Candidates that are looked at where two runs part: the most that an API of OpenAI's form gives.
CANDIDATES = 100


@dataclass(frozen=True)
class Side:
    """A token of one side. logprob: that the replay gave it; None where it was not among the most likely ones."""

    id: int
    text: str | None
    logprob: float | None


@dataclass(frozen=True)
class Parting:
    """The first token in which a completion differs. row: of the record's completions; place: from 0.

    recorded, here: None where that side had ended. margin: by how much the replay found its own token likelier than the
    recorded one, in natural logarithms; None where it is not known.
    """

    row: int
    place: int
    recorded: Side | None
    here: Side | None
    margin: float | None


@dataclass(frozen=True)
class Comparison:
    """rows: how many completions were compared, tokens: how many tokens of them are equal. partings: of those that differ.

    noise: the largest difference of a log-probability between the same tokens after the same texts; None where the record has
    none. document: of the replay.
    """

    rows: int
    tokens: int
    partings: list[Parting]
    noise: float | None
    document: dict[str, Any]


def rounding(record: Made) -> float:
    """How far log-probabilities may differ by rounding alone, see `ROUNDING`."""
    if record.document["quantization"] is not None:
        return QUANTIZED_ROUNDING
    return ROUNDING.get(record.document["dtype"], 0.0)


def likeliest_only(sampling: SamplingConfig) -> bool:
    """Whether nothing but their likelihood decides which tokens are taken: greedily, without penalties, bans or biases."""
    return sampling == SamplingConfig(**{name: getattr(sampling, name) for name in _WITHOUT_PART})


def explained(parting: Parting, record: Record) -> bool | None:
    """Whether rounding can be why two completions part; None where it cannot be told: tokens were drawn, penalties or biases
    decide too, or nothing was run.

    Greedy decoding takes another token where the two likeliest ones change places, which takes a margin of no more than twice
    what rounding does to one. A token that is not among the most likely ones has more.
    """
    if not likeliest_only(record.sampling) or parting.recorded is None or parting.here is None or parting.here.logprob is None:
        return None
    return parting.margin is not None and parting.margin <= 2 * rounding(record)


def replay(record: Record, model: "Runnable", batch_size: int) -> Comparison:
    """Run the prompts of a record again. model: loaded as `Record.spec` says. Raises OlcError."""
    from openllama_cli.api.run import Run
    from openllama_cli.records.record import surroundings

    engine = record.document["engine"]
    sampling = replace(record.sampling, logprobs=CANDIDATES)
    run = Run(
        model,
        record.prompts,
        sampling,
        samples=record.samples,
        engine=engine,
        batch_size=batch_size,
        speculate=record.speculate,
    ).finish()
    partings, equal, noise = [], 0, None
    for row, (before, now) in enumerate(zip(record.completions, run.rows, strict=True)):
        place = _shared(before.ids, [scored.token for scored in now.scored])
        equal += place
        pairs = zip(before.logprobs[:place], now.scored[:place], strict=True)
        noise = _largest(noise, [(old, scored.logprob) for old, scored in pairs])
        if place < max(len(before.ids), len(now.scored)):
            partings.append(_parting(row, place, before, now.scored, model.tokenizer.text))
    document = surroundings(model.loaded, record.document["command"], engine, run.forward)
    return Comparison(len(run.rows), equal, partings, noise, document)


def against(record: Record, other: Record) -> Comparison:
    """Hold a record against another one of the same prompts; nothing is run."""
    partings, equal, noise = [], 0, None
    for row, (before, now) in enumerate(zip(record.completions, other.completions, strict=False)):
        place = _shared(before.ids, now.ids)
        equal += place
        noise = _largest(noise, list(zip(before.logprobs[:place], now.logprobs[:place], strict=True)))
        if place < max(len(before.ids), len(now.ids)):
            sides = [Side(one.ids[place], None, None) if place < len(one.ids) else None for one in (before, now)]
            partings.append(Parting(row, place, sides[0], sides[1], None))
    return Comparison(min(len(record.completions), len(other.completions)), equal, partings, noise, other.document)


def _parting(row: int, place: int, before: Completed, now: "list[Scored]", text: Any) -> Parting:
    here = now[place] if place < len(now) else None
    token = before.ids[place] if place < len(before.ids) else None
    likely = {} if here is None else dict(here.top)
    recorded = None if token is None else Side(token, text(token), likely.get(token))
    own = None if here is None else Side(here.token, text(here.token), here.logprob)
    known = recorded is not None and own is not None and recorded.logprob is not None and own.logprob is not None
    margin = own.logprob - recorded.logprob if known else None  # type: ignore[union-attr, operator]
    return Parting(row, place, recorded, own, margin)


def _shared(a: list[int], b: list[int]) -> int:
    """How many tokens two completions begin with in common."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(a), len(b)))


def _largest(noise: float | None, pairs: list[tuple[float | None, float | None]]) -> float | None:
    """The largest difference of what is known on both sides, or `noise` if that is larger."""
    found = [abs(one - other) for one, other in pairs if one is not None and other is not None]
    return max([*found, *([] if noise is None else [noise])], default=None)
