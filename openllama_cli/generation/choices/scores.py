"""What a model makes of choices: log-likelihoods, scores, probabilities, and which of them is the best."""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from openllama_cli.generation.choices.config import Choices


class Token(Protocol):
    """A token and the natural log-probability that the model gave it: `decode.request.Scored`."""

    @property
    def token(self) -> int: ...
    @property
    def logprob(self) -> float | None: ...


@dataclass(frozen=True)
class ScoredChoice:
    """text: as it was given. logprob: its natural log-likelihood given the prompt. tokens: how many it has; bytes: in UTF-8.
    score: what is compared, normalized and calibrated. probability: a softmax of the scores of all choices; they add up to 1.
    """

    text: str
    logprob: float
    tokens: int
    bytes: int
    score: float
    probability: float

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def score_choices(
    choices: Choices, branches: Sequence[Sequence[Token]], neutral: Sequence[Sequence[Token]] | None = None
) -> list[ScoredChoice]:
    """The choices in the order in which they were given.

    branches: the scored tokens of each. neutral: the same after the neutral prompt, if the choices have one.
    """
    logprobs = log_likelihoods(branches)
    scores = _normalized(choices, branches, logprobs)
    if neutral is not None:
        subtracted = _normalized(choices, neutral, log_likelihoods(neutral))
        scores = [score - other for score, other in zip(scores, subtracted, strict=True)]
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = math.fsum(weights)
    return [
        ScoredChoice(text, logprob, len(tokens), len(text.encode()), score, weight / total)
        for text, logprob, tokens, score, weight in zip(choices.texts, logprobs, branches, scores, weights, strict=True)
    ]


def best(scored: Sequence[ScoredChoice]) -> ScoredChoice:
    """The choice with the highest score; of equal ones the first."""
    return max(scored, key=lambda choice: choice.score)


def log_likelihoods(branches: Sequence[Sequence[Token]]) -> list[float]:
    """The natural log-likelihood of each branch: the sum over its tokens.

    Where branches begin with the tokens of another ("10" after "1"), that one stands for texts that begin with it and go on
    as none of these: log(P(1) - P(10) - …) over the nearest longer ones, since those beyond them are parts of these. It is
    always finite.
    """
    sums = [math.fsum(token.logprob or 0.0 for token in branch) for branch in branches]
    ids = [tuple(token.token for token in branch) for branch in branches]
    places = {branch: place for place, branch in enumerate(ids)}
    # For each branch, how likely it goes on as each of the nearest longer ones.
    longer: list[list[float]] = [[] for _ in branches]
    for place, branch in enumerate(ids):
        shorter = next((size for size in range(len(branch) - 1, 0, -1) if branch[:size] in places), None)
        if shorter is not None:
            rest = math.fsum(token.logprob or 0.0 for token in branches[place][shorter:])
            longer[places[branch[:shorter]]].append(rest)
    return [total + _log_of_the_rest(rests) if rests else total for total, rests in zip(sums, longer, strict=True)]


def _log_of_the_rest(logprobs: Sequence[float]) -> float:
    """log(1 - sum of probabilities). Rounding may bring that sum to 1 or beyond: the rest is then as small as can be told."""
    highest = max(logprobs)
    taken = highest + math.log(math.fsum(math.exp(logprob - highest) for logprob in logprobs))
    taken = min(taken, -sys.float_info.epsilon)
    # Mächler 2012, "Accurately computing log(1 - exp(-|a|))".
    return math.log(-math.expm1(taken)) if taken > -math.log(2) else math.log1p(-math.exp(taken))


def _normalized(choices: Choices, branches: Sequence[Sequence[Token]], logprobs: Sequence[float]) -> list[float]:
    if choices.normalize == "token":
        return [logprob / len(branch) for logprob, branch in zip(logprobs, branches, strict=True)]
    if choices.normalize == "byte":
        return [logprob / len(text.encode()) for logprob, text in zip(logprobs, choices.texts, strict=True)]
    return list(logprobs)
