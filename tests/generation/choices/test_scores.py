"""Scores of choices, against distributions written by hand."""

import math
from typing import Any, NamedTuple

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.choices.scores import best, log_likelihoods, score_choices


class Token(NamedTuple):
    token: int
    logprob: float | None


def branches(*given: str) -> list[list[Token]]:
    """ "1:0.5 2:0.25" is a branch of ids with probabilities."""
    return [
        [Token(int(token), math.log(float(share))) for token, share in (part.split(":") for part in one.split())]
        for one in given
    ]


def test_the_sum_of_the_log_likelihoods_decides_unless_told_otherwise() -> None:
    made = branches("1:0.5", "2:0.4 3:0.5", "4:0.3")
    scored = score_choices(Choices(("yes", "perhaps so", "no")), made)
    assert [choice.text for choice in scored] == ["yes", "perhaps so", "no"]
    assert [math.exp(choice.logprob) for choice in scored] == pytest.approx([0.5, 0.2, 0.3])
    assert [choice.score for choice in scored] == [choice.logprob for choice in scored]
    assert [choice.probability for choice in scored] == pytest.approx([0.5, 0.2, 0.3])
    assert [(choice.tokens, choice.bytes) for choice in scored] == [(1, 3), (2, 10), (1, 2)]
    assert best(scored).text == "yes"
    assert scored[1].document().keys() == {"text", "logprob", "tokens", "bytes", "score", "probability"}


def test_normalized_per_token_and_per_byte() -> None:
    made = branches("1:0.2", "2:0.5 3:0.25")
    per_token = score_choices(Choices(("ja", "größer"), normalize="token"), made)
    assert [choice.score for choice in per_token] == pytest.approx([math.log(0.2), math.log(0.125) / 2])
    assert best(per_token).text == "größer"
    per_byte = score_choices(Choices(("ja", "größer"), normalize="byte"), made)
    assert [choice.score for choice in per_byte] == pytest.approx([math.log(0.2) / 2, math.log(0.125) / 8])
    assert [choice.logprob for choice in per_byte] == pytest.approx([math.log(0.2), math.log(0.125)])
    weights = [math.exp(choice.score) for choice in per_byte]
    assert [choice.probability for choice in per_byte] == pytest.approx([weight / sum(weights) for weight in weights])


def test_calibrated_by_what_a_neutral_prompt_makes_of_each() -> None:
    made, neutral = branches("1:0.6", "2:0.3 3:1"), branches("1:0.8", "2:0.1 3:1")
    choices = Choices(("yes", "no"), neutral="")
    scored = score_choices(choices, made, neutral)
    assert [choice.score for choice in scored] == pytest.approx([math.log(0.6 / 0.8), math.log(0.3 / 0.1)])
    assert [choice.probability for choice in scored] == pytest.approx([0.75 / 3.75, 3 / 3.75])
    assert [choice.logprob for choice in scored] == pytest.approx([math.log(0.6), math.log(0.3)])
    per_token = score_choices(Choices(("yes", "no"), normalize="token", neutral=""), made, neutral)
    assert per_token[1].score == pytest.approx((math.log(0.3) - math.log(0.1)) / 2)


def test_the_first_of_equal_choices_wins() -> None:
    scored = score_choices(Choices(("b", "a", "c")), branches("1:0.2", "2:0.4", "3:0.4"))
    assert best(scored).text == "a"


def test_a_choice_that_others_begin_with_counts_without_them() -> None:
    """1, 10, 100, 12, 2: each but the longest goes on as one of the others or not."""
    made = branches("1:0.8", "1:0.8 0:0.5", "1:0.8 0:0.5 0:0.25", "1:0.8 2:0.1", "2:0.1")
    found = [math.exp(value) for value in log_likelihoods(made)]
    assert found == pytest.approx([0.8 - 0.4 - 0.08, 0.4 - 0.1, 0.1, 0.08, 0.1])
    assert sum(found) == pytest.approx(0.8 + 0.1)
    # In whatever order they come.
    assert log_likelihoods(made[::-1]) == log_likelihoods(made)[::-1]


@pytest.mark.parametrize("logprob", [0.0, 1e-7, -1e-300, -1e-17, -1e-9, -0.5, -50.0, -2000.0])
def test_what_is_left_of_a_choice_is_finite_and_exact(logprob: float) -> None:
    short, longer = log_likelihoods([[Token(1, -3.0)], [Token(1, -3.0), Token(2, logprob)]])
    assert longer == -3.0 + logprob
    assert math.isfinite(short)
    if logprob <= -1e-9:
        assert short == pytest.approx(-3.0 + math.log(-math.expm1(logprob)), rel=1e-12)
    else:
        assert short < -30


def test_probabilities_add_up_to_one_however_unlikely_the_choices_are() -> None:
    made = [[Token(number, -1000.0 - number)] for number in range(900)]
    scored = score_choices(Choices(tuple(map(str, range(900)))), made)
    assert math.fsum(choice.probability for choice in scored) == pytest.approx(1, abs=1e-12)
    assert all(0 <= choice.probability <= 1 for choice in scored)


def test_an_unknown_normalization_is_refused() -> None:
    unknown: Any = "word"
    with pytest.raises(UsageError) as caught:
        Choices(("a", "b"), normalize=unknown)
    assert caught.value.code == "choices_normalize"
