"""A record run again, or held against another one: where they part, and whether rounding can be why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import ModelError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.records.made import Made
from openllama_cli.records.read import Completed, Record
from openllama_cli.records.scores import Flip, Scores, deviations, flips, largest_share, scores

if TYPE_CHECKING:
    from openllama_cli.api.run import Run, Runnable
    from openllama_cli.generation.decode.request import Scored
    from openllama_cli.generation.text.completion import Completion as Row
    from openllama_cli.models.tokenizer.base import Tokenizer

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
    none. document: of the replay. scores: of prompts that were scored, and of choices; None where nothing was. flips: prompts
    whose best choice is another one. share: by how much a choice's probability differs at the most; None without choices.
    kept: on each side the place of every row among the answers, where not all are answers; None where that is the same.
    """

    rows: int
    tokens: int
    partings: list[Parting]
    noise: float | None
    document: dict[str, Any]
    scores: Scores | None = None
    flips: list[Flip] = field(default_factory=list)
    share: float | None = None
    kept: tuple[list[int | None], list[int | None]] | None = None

    @property
    def different(self) -> bool:
        """Whether a token or an answer differs, or a score by more than rounding explains."""
        beyond = self.scores is not None and self.scores.beyond > 0
        return bool(self.partings or self.flips or self.kept or beyond)


def rounding(record: Made) -> float:
    """How far log-probabilities may differ by rounding alone, see `ROUNDING`; where nothing is known of it, the most."""
    return max(
        QUANTIZED_ROUNDING if place["quantization"] is not None else ROUNDING.get(place["dtype"], QUANTIZED_ROUNDING)
        for place in record.places
    )


def precision(record: Made) -> str:
    """In which it was made, in words."""
    names = [str(place["quantization"] or place["dtype"] or "an unknown precision") for place in record.places]
    return " and ".join(dict.fromkeys(names))


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


def texts_of(tokenizer: "Tokenizer") -> Callable[[int], str | None]:
    """The text of a token; None where it has none, as some rows of an embedding."""

    def text(token: int) -> str | None:
        try:
            return tokenizer.text(token)
        except ModelError:
            return None

    return text


def replay(record: Record, model: "Runnable", batch_size: int) -> Comparison:
    """Run the prompts of a record again. model: loaded as `Record.spec` says. Raises OlcError."""
    from openllama_cli.records.record import surroundings

    engine = record.document["engine"]
    run = _run(record, model, batch_size).finish()
    partings, equal, noise = [], 0, None
    # A prompt that was scored, or whose answer was chosen, is a row without a completion.
    for row, (before, now) in enumerate(zip(record.completions, run.rows, strict=False)):
        place = _shared(before.ids, [scored.token for scored in now.scored])
        equal += place
        pairs = zip(before.logprobs[:place], now.scored[:place], strict=True)
        noise = _largest(noise, [(old, scored.logprob) for old, scored in pairs])
        if place < max(len(before.ids), len(now.scored)):
            partings.append(_parting(row, place, before, now.scored, texts_of(model.tokenizer)))
    document = surroundings(model.loaded, record.document["command"], engine, run.forward)
    scored = [[entry.logprob for entry in row.prompt_scored] for row in run.rows[:: record.samples]]
    branches = [
        [Completed([one.token for one in branch], [one.logprob for one in branch]) for branch in row.branches]
        for row in run.rows
    ]
    rows = len(record.completions)
    compared = Comparison(rows, equal, partings, noise, document, kept=_kept(record, _answered(record, run.rows)))
    return _with_scores(compared, record, scored, branches)


def against(record: Record, other: Record) -> Comparison:
    """Hold a record against another one of the same prompts; nothing is run."""
    partings, equal, noise = [], 0, None
    for row, (before, now) in enumerate(zip(record.completions, other.completions, strict=True)):
        place = _shared(before.ids, now.ids)
        equal += place
        noise = _largest(noise, list(zip(before.logprobs[:place], now.logprobs[:place], strict=True)))
        if place < max(len(before.ids), len(now.ids)):
            sides = [Side(one.ids[place], None, None) if place < len(one.ids) else None for one in (before, now)]
            partings.append(Parting(row, place, sides[0], sides[1], None))
    rows, kept = len(record.completions), _kept(record, other.kept)
    compared = Comparison(rows, equal, partings, noise, other.document, kept=kept)
    return _with_scores(compared, record, other.logprobs, other.branches)


def _run(record: Record, model: "Runnable", batch_size: int) -> "Run":
    """What a record says, to be run."""
    from openllama_cli.api.choosing import ChoiceRun
    from openllama_cli.api.run import Run
    from openllama_cli.generation.choices.branches import Branched

    if record.choices is not None:
        found = [
            Branched(tuple(ids), tuple(tuple(branch.ids) for branch in branches))
            for ids, branches in zip(record.prompts, record.branches, strict=True)
        ]
        neutral = found.pop() if record.choices.neutral is not None else None
        return ChoiceRun(model, record.choices, found, neutral).run
    how: dict[str, Any] = {"score_prompt": any(record.logprobs)}
    if record.scoring is not None:
        how |= {"unscored": record.scoring.first, "stride": record.scoring.stride}
    else:
        how |= {"seeds": record.seeds, "draws": record.draws, "engine": record.document["engine"]}
    return Run(
        model,
        record.prompts,
        # Not of every token of a text of any length that is scored.
        replace(record.sampling, logprobs=CANDIDATES if record.sampling.max_tokens else 0),
        samples=record.samples,
        batch_size=batch_size,
        speculate=record.speculate,
        **how,
    )


def _answered(record: Record, rows: "Sequence[Row]") -> list[int | None]:
    """The place of each row among the answers, where a record keeps the best ones only; see `Record.kept`."""
    from openllama_cli.generation.text.completion import best_of

    if not record.kept:
        return []
    count = sum(place is not None for place in record.kept) // len(record.prompts)
    found: list[int | None] = [None] * len(rows)
    for prompt, start in enumerate(range(0, len(rows), record.samples)):
        for place, row in enumerate(best_of(rows[start : start + record.samples], count)):
            found[start + row] = prompt * count + place
    return found


def _kept(record: Record, now: list[int | None]) -> tuple[list[int | None], list[int | None]] | None:
    return None if record.kept == now else (record.kept, now)


def _with_scores(
    compared: Comparison,
    record: Record,
    logprobs: Sequence[Sequence[float | None]],
    branches: Sequence[Sequence[Completed]],
) -> Comparison:
    """With what is scored and not drawn: prompts and choices."""
    allowed = rounding(record)
    if not any(record.logprobs) and record.choices is None:
        return compared
    found = scores(deviations(record, logprobs, branches), allowed)
    if record.choices is None:
        return replace(compared, scores=found)
    return replace(compared, scores=found, flips=flips(record, branches, allowed), share=largest_share(record, branches))


def _parting(row: int, place: int, before: Completed, now: "list[Scored]", text: Any) -> Parting:
    here = now[place] if place < len(now) else None
    token = before.ids[place] if place < len(before.ids) else None
    likely = {} if here is None else dict(here.top)
    recorded = None if token is None else Side(token, text(token), likely.get(token))
    own = None if here is None else Side(here.token, text(here.token), here.logprob)
    margin = None
    if recorded is not None and own is not None and recorded.logprob is not None and own.logprob is not None:
        margin = own.logprob - recorded.logprob
    return Parting(row, place, recorded, own, margin)


def _shared(a: list[int], b: list[int]) -> int:
    """How many tokens two completions begin with in common."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(a), len(b)))


def _largest(noise: float | None, pairs: list[tuple[float | None, float | None]]) -> float | None:
    """The largest difference of what is known on both sides, or `noise` if that is larger."""
    found = [abs(one - other) for one, other in pairs if one is not None and other is not None]
    return max([*found, *([] if noise is None else [noise])], default=None)
