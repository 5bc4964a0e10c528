"""Log-probabilities of the same tokens in two runs, and answers that were chosen by them: where the two runs part."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.choices.scores import ScoredChoice, best, score_choices
from openllama_cli.records.read import Completed, Record


@dataclass(frozen=True)
class Deviation:
    """A token to which two runs gave other log-probabilities; None where one gave none.

    prompt, place: where it stands, from 0. choice: in which of the choices after the prompt, if it is in one.
    """

    prompt: int
    choice: int | None
    place: int
    id: int
    recorded: float | None
    here: float | None

    @property
    def difference(self) -> float:
        """How far they lie apart."""
        if self.recorded is None or self.here is None:
            return 0.0 if self.recorded is self.here else math.inf
        return abs(self.recorded - self.here)


@dataclass(frozen=True)
class Scores:
    """tokens: how many were compared. beyond: how many lie further apart than rounding explains. furthest: the largest
    difference; None where there is none."""

    tokens: int
    beyond: int
    furthest: Deviation | None


@dataclass(frozen=True)
class Flip:
    """Another choice was the best one. margin: by how much its score is higher than that of the recorded one, now; before: by
    how much it was lower. explained: the most by which rounding can change the two scores against each other."""

    prompt: int
    recorded: ScoredChoice
    here: ScoredChoice
    margin: float
    before: float
    explained: float


def deviations(
    record: Record, logprobs: Sequence[Sequence[float | None]], branches: Sequence[Sequence[Completed]]
) -> Iterator[Deviation]:
    """Every token that a record has scored, with what another run made of it.

    logprobs: of each prompt's tokens, as in the record. branches: of each prompt.
    """
    for prompt, (ids, before, now) in enumerate(zip(record.prompts, record.logprobs, logprobs, strict=True)):
        if before:
            pairs = zip(ids, before, [*now, *([None] * (len(before) - len(now)))], strict=True)
            for place, (token, old, new) in enumerate(pairs):
                if old is not None or new is not None:
                    yield Deviation(prompt, None, place, token, old, new)
    for prompt, (side, other) in enumerate(zip(record.branches, branches, strict=False)):
        for choice, (one, now_one) in enumerate(zip(side, other, strict=True)):
            for place, (token, old, new) in enumerate(zip(one.ids, one.logprobs, now_one.logprobs, strict=True)):
                yield Deviation(prompt, choice, place, token, old, new)


def scores(found: Iterator[Deviation], rounding: float) -> Scores:
    """What deviations come to."""
    tokens = beyond = 0
    furthest: Deviation | None = None
    for one in found:
        tokens += 1
        beyond += one.difference > rounding
        if one.difference > (0.0 if furthest is None else furthest.difference):
            furthest = one
    return Scores(tokens, beyond, furthest)


class _Token(NamedTuple):
    token: int
    logprob: float | None


def answers(choices: Choices, branches: Sequence[Sequence[Completed]]) -> list[list[ScoredChoice]]:
    """The choices of each prompt but the neutral one, which is the last."""
    rows = [[[_Token(*pair) for pair in zip(one.ids, one.logprobs, strict=True)] for one in prompt] for prompt in branches]
    neutral = rows.pop() if choices.neutral is not None else None
    return [score_choices(choices, row, neutral) for row in rows]


def flips(record: Record, branches: Sequence[Sequence[Completed]], rounding: float) -> list[Flip]:
    """Where another run's best choice is another one. branches: of each prompt, as in the record."""
    assert record.choices is not None
    found = []
    both = zip(answers(record.choices, record.branches), answers(record.choices, branches), strict=True)
    for prompt, (before, now) in enumerate(both):
        old, new = before.index(best(before)), now.index(best(now))
        if old != new:
            margins = now[new].score - now[old].score, before[old].score - before[new].score
            explained = rounding * (_weight(record.choices, now[new]) + _weight(record.choices, now[old]))
            found.append(Flip(prompt, before[old], now[new], *margins, explained))
    return found


def largest_share(record: Record, branches: Sequence[Sequence[Completed]]) -> float:
    """By how much the probability of a choice differs at the most."""
    assert record.choices is not None
    both = zip(answers(record.choices, record.branches), answers(record.choices, branches), strict=True)
    return max(abs(old.probability - new.probability) for pair in both for old, new in zip(*pair, strict=True))


def _weight(choices: Choices, choice: ScoredChoice) -> float:
    """How many times a score changes with the log-probability of all tokens of its choice; with the neutral prompt's too."""
    each = {"sum": 1, "token": choice.tokens, "byte": choice.bytes}[choices.normalize]
    return choice.tokens / each * (1 if choices.neutral is None else 2)
