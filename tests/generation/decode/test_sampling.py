"""Filters on hand-written distributions and against transformers' own; draws against the distribution."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.errors import GenerationError, UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.processors import Place, add, penalize
from openllama_cli.generation.decode.sampling import choose_token, log_probabilities, row_generator
from tests.support.models.fakes import warp

HALVES = torch.tensor([0.5, 0.25, 0.15, 0.1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 2}, [0.6667, 0.3333, 0, 0]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.6}, [0.6667, 0.3333, 0, 0]),
        ({"top_p": 1e-6}, [1, 0, 0, 0]),
        ({"min_p": 0.4}, [0.6667, 0.3333, 0, 0]),
        ({"min_p": 1}, [1, 0, 0, 0]),
        ({"temperature": 0.5, "top_p": 0.8}, [0.8, 0.2, 0, 0]),  # Temperature comes before the filters.
        ({"temperature": 1e-7}, [1, 0, 0, 0]),  # Greedy is its limit.
    ],
    ids=str,
)
def test_filters_keep_the_most_likely(options: dict[str, Any], expected: list[float]) -> None:
    config = SamplingConfig(**{"temperature": 1, **options})
    assert [round(value, 4) for value in warp(HALVES.log(), config).tolist()] == expected


@pytest.mark.parametrize("frequency", [0.0, 0.4, -1.3])
@pytest.mark.parametrize("presence", [0.0, 0.9, -0.6])
def test_penalties_of_openai_count_what_was_generated(frequency: float, presence: float) -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, of its documentation; the prompt counts for nothing."""
    config = SamplingConfig(frequency_penalty=frequency, presence_penalty=presence)
    random = torch.Generator().manual_seed(3)
    for _ in range(50):
        logits, seen = torch.randn(8, generator=random), torch.randint(8, (12,), generator=random)
        counts = torch.bincount(seen[5:], minlength=8)
        expected = logits - counts * frequency - (counts > 0) * presence
        assert choose_token(logits, Place(seen.tolist(), 5), config, None) == int(expected.argmax())


def test_a_bias_is_added_before_anything_is_chosen() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0])
    assert add(logits, [(0, -2.5), (2, 1.0), (99, 5.0)]).tolist() == [0.5, 2.0, 2.0]
    assert logits.tolist() == [3.0, 2.0, 1.0]
    assert add(logits, [(0, 1e39), (1, -1e39)]).isinf().tolist() == [False, False, False]

    def chosen(bias: dict[int, float], **options: Any) -> int:
        config = SamplingConfig.from_given({"logit_bias": bias, **options})
        return choose_token(logits, Place([0], pieceless=torch.tensor([2])), config, row_generator(0, 0))

    assert chosen({0: -100}) == 1
    assert chosen({0: -100}, temperature=1) == 1
    assert chosen({2: 100}) == 0, "an id without a piece stays out"


NOT_BIASES = [5, "x", {-1: 1}, {"": 1}, {1: "2"}, {1: True}, {1: math.nan}, {1: math.inf}, [1], {1.5: 1}]


@pytest.mark.parametrize("bias", NOT_BIASES, ids=str)
def test_a_bias_that_is_none(bias: Any) -> None:
    with pytest.raises(UsageError, match="logit-bias"):
        SamplingConfig.from_given({"logit_bias": bias})


@pytest.mark.parametrize("bias", [{"13": 1, "5": 2, "013": 1}, {13: 1, "13": 2}, ((13, 1), (5, 2), (13, 1))], ids=str)
def test_a_bias_that_is_given_twice(bias: Any) -> None:
    with pytest.raises(UsageError, match="--logit-bias has token id 13 twice"):
        SamplingConfig.from_given({"logit_bias": bias})


def test_a_bias_in_the_forms_it_has() -> None:
    wanted = ((3, 1.5), (13, -100.0))
    for bias in ({"13": -100, "3": 1.5}, {13: -100, 3: 1.5}, wanted):
        assert SamplingConfig.from_given({"logit_bias": bias}).logit_bias == wanted


def test_the_repetition_penalty_lowers_what_was_seen_whatever_its_sign() -> None:
    assert penalize(torch.tensor([2.0, -2.0, 1.0, -1.0]), [0, 1, 0], 2.0).tolist() == [1.0, -4.0, 1.0, -1.0]


def test_greedy_takes_the_first_of_the_most_likely_whatever_else_is_set() -> None:
    config, logits = SamplingConfig(temperature=0, top_p=0.1, top_k=3, min_p=0.5, seed=3), torch.zeros(1000)
    logits[[70, 300, 999]] = 3.0
    assert choose_token(logits, Place(), config, None) == 70
    with torch.inference_mode():
        assert choose_token(logits + 1, Place(), config, None) == 70


@pytest.mark.parametrize("temperature", [1e-38, 5e-324, 1e-30, 1e-9, 1e-7])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    config = SamplingConfig(temperature=temperature, seed=1)
    for scale in (1.0, -1.0, 1e30, 1e-2):
        logits = scale * torch.tensor([3.0, 9.0, 9.5, 9.25, -4.0, -5.0])
        assert choose_token(logits, Place(), config, row_generator(1, 0)) == int(logits.argmax())
    if temperature < 1e-8:
        ties = torch.tensor([0.0, 7.0, 7.0, 7.0])
        assert {choose_token(ties, Place(), config, row_generator(seed, 0)) for seed in range(9)} == {1}


@pytest.mark.parametrize("penalty", [1e-45, 1e-320, 1e300])
def test_an_extreme_penalty_makes_no_infinities(penalty: float) -> None:
    logits = torch.tensor([0.5, 40.0, -1.0, 0.0])
    for temperature in (0.0, 1.0):
        config = SamplingConfig(temperature=temperature, repetition_penalty=penalty)
        assert choose_token(logits, Place([0, 2, 3]), config, row_generator(1, 0)) == (0 if penalty < 1 else 1)


def test_banned_ids_are_never_chosen_whatever_the_filters() -> None:
    logits, banned = torch.tensor([1.0, 9.0, 2.0, 0.0, 9.5]), torch.tensor([1, 4])
    for config in (SamplingConfig(), SamplingConfig(temperature=2.0, top_k=1), SamplingConfig(temperature=1.0, top_p=0.01)):
        assert choose_token(logits, Place(pieceless=banned), config, row_generator(1, 0)) == 2
    generator = row_generator(1, 0)
    drawn = {
        choose_token(logits, Place([3, 4], pieceless=banned), SamplingConfig(temperature=9.0), generator) for _ in range(200)
    }
    assert drawn == {0, 2, 3}


def test_draws_follow_the_distribution() -> None:
    generator = row_generator(1, 0)
    config = SamplingConfig(temperature=1)
    draws = torch.tensor([choose_token(HALVES.log(), Place(), config, generator) for _ in range(4000)])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    # Four standard deviations of a share of 4,000 draws.
    assert (shares - HALVES).abs().max() < 4 * math.sqrt(0.25 / 4000)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    generator = row_generator(2, 0)
    config = SamplingConfig(temperature=1, top_k=2)
    logits = torch.tensor([0.0, 1.0, 2.0, 0.5])
    assert {choose_token(logits, Place(), config, generator) for _ in range(500)} == {1, 2}


def test_rows_and_seeds_have_different_random_numbers() -> None:
    numbers = {float(torch.rand((), generator=row_generator(seed, row))) for seed in (0, 1, -5, 2**40) for row in range(50)}
    assert len(numbers) == 200


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40),
    st.floats(0.05, 3),
    st.integers(0, 45),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.floats(0.5, 2),
    st.lists(st.integers(0, 1), min_size=1),
)
def test_filters_equal_transformers(
    values: list[float], temperature: float, top_k: int, top_p: float, min_p: float, penalty: float, seen: list[int]
) -> None:
    from transformers.generation import logits_process as published

    logits = torch.tensor(values)
    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty, seed=0)
    theirs = published.LogitsProcessorList([published.RepetitionPenaltyLogitsProcessor(penalty)])
    theirs += [published.TemperatureLogitsWarper(temperature)]
    theirs += [published.TopKLogitsWarper(top_k)] if top_k else []
    theirs += [published.TopPLogitsWarper(top_p)] if top_p < 1 else []
    theirs += [published.MinPLogitsWarper(min_p)] if min_p else []
    expected = theirs(torch.tensor([seen]), logits[None].clone())[0].softmax(-1)
    ours = warp(penalize(logits, seen, penalty), config)
    # Where two tokens are equally likely, which of them the nucleus keeps is a matter of sort order.
    torch.testing.assert_close(ours.sort().values, expected.sort().values, atol=1e-6, rtol=1e-5)


def test_numbers_beyond_floats_are_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--temperature"):
        SamplingConfig.from_given({"temperature": 10**400})


def test_log_probabilities_are_float32_whatever_came_in() -> None:
    assert log_probabilities(torch.tensor([1.0, 2.0], dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("place", "temperature"), [(0, 0), (17, 1), (999, 0), (999, 1)])
def test_a_single_logit_that_is_not_finite_is_an_error(odd: float, place: int, temperature: float) -> None:
    logits, config = torch.linspace(-5, 5, 1000), SamplingConfig(temperature=temperature)
    choose_token(logits, Place(), config, row_generator(0, 0))
    logits[place] = odd
    with pytest.raises(GenerationError, match="NaN or infinite"):
        choose_token(logits, Place(), config, row_generator(0, 0))
