"""The order of the processors, each on distributions written by hand and against transformers' own."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.errors import GenerationError, UsageError
from openllama_cli.generation.decode.config import SamplingConfig, flag_of, loop_only, option_of
from openllama_cli.generation.decode.dry import LONGEST, dry_penalties
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.processors import Place, stages
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.decode.sampling import choose_token, row_generator
from tests.support.models.fakes import FakeForward, counting, token_rows

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0])


def test_the_processors_run_in_the_documented_order() -> None:
    config = SamplingConfig(
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.01,
        repetition_penalty=1.5,
        frequency_penalty=0.1,
        logit_bias=((0, 1.0),),
        dry_multiplier=1.0,
    )
    found = dict(stages(LOGITS, Place(seen=[0, 1, 0], prompt=1), config))
    names = ["allowed", "logit bias", "repetition penalty", "frequency and presence", "DRY", "temperature", "top-k", "top-p"]
    assert list(found) == [*names, "min-p"]
    # (2 + 1) / 1.5 - 0.1 and 1 / 1.5 - 0.1, each then divided by the temperature.
    torch.testing.assert_close(found["temperature"][:2], torch.tensor([1.9, 1 / 1.5 - 0.1]) / 0.5)


def test_only_what_is_asked_for_runs_and_greedy_rows_are_not_tempered() -> None:
    assert [name for name, _ in stages(LOGITS, Place(), SamplingConfig())] == ["allowed"]
    config = SamplingConfig(top_k=1, temperature=0.0, presence_penalty=1.0)
    assert [name for name, _ in stages(LOGITS, Place(), config)] == ["allowed", "frequency and presence"]


def test_what_is_not_allowed_stays_out_whatever_its_bias() -> None:
    place = Place(pieceless=torch.tensor([3]), never=[0, 99], masks=[torch.tensor([True, True, False, True])])
    config = SamplingConfig(logit_bias=((0, 100.0), (2, 100.0), (3, 100.0)), repetition_penalty=1e-320)
    *_, (_, last) = stages(LOGITS, place, config)
    assert last.isinf().tolist() == [True, False, True, True]


def test_where_nothing_may_be_drawn_the_row_fails() -> None:
    with pytest.raises(GenerationError) as caught:
        list(stages(LOGITS, Place(never=range(4)), SamplingConfig()))
    assert caught.value.code == "no_token_left"


@given(st.lists(st.floats(-9, 9, width=32), min_size=5, max_size=20), st.dictionaries(st.integers(0, 4), st.floats(-9, 9)))
def test_biases_and_what_is_never_drawn_equal_transformers(values: list[float], biases: dict[int, float]) -> None:
    from transformers.generation import logits_process as published

    logits, ids = torch.tensor(values), torch.tensor([[1, 2]])
    config = SamplingConfig.from_given({"logit_bias": biases})
    *_, (_, ours) = stages(logits, Place(never=[3]), config)
    theirs = published.SuppressTokensLogitsProcessor([3])(ids, logits[None].clone())
    theirs = published.MinNewTokensLengthLogitsProcessor(2, 1, [3])(ids, theirs)
    if biases:
        bias = {(token,): float(added) for token, added in biases.items()}
        theirs = published.SequenceBiasLogitsProcessor(bias)(ids, theirs)
    torch.testing.assert_close(ours, theirs[0])


def by_definition(seen: Sequence[int], breakers: frozenset[int], multiplier: float, base: float, allowed: int) -> Any:
    """For every token: the longest end of the text, without a breaker, that stands before an earlier occurrence of it."""
    found = {}
    for token in set(seen) - breakers:
        lengths = [0]
        for place in range(1, len(seen)):
            if seen[place] != token:
                continue
            for length in range(1, min(place, allowed + LONGEST) + 1):
                end = list(seen[-length:])
                if list(seen[place - length : place]) == end and not breakers & set(end):
                    lengths.append(length)
        if max(lengths) >= allowed:
            found[token] = multiplier * base ** (max(lengths) - allowed)
    return found


def test_dry_is_what_its_author_defined() -> None:
    # "1 2 3" came before a 4: three tokens, one beyond the allowed two.
    assert dry_penalties([1, 2, 3, 4, 9, 1, 2, 3], frozenset(), 0.8, 1.75, 2) == {4: 0.8 * 1.75}
    assert dry_penalties([1, 2, 3, 4, 9, 1, 2, 3], frozenset({2}), 0.8, 1.75, 2) == {}
    assert dry_penalties([1, 2, 3, 4, 9, 1, 2, 3], frozenset({4}), 0.8, 1.75, 2) == {}
    assert dry_penalties([1, 2, 3, 4, 9, 1, 2, 3], frozenset({3}), 0.8, 1.75, 1) == {}
    assert dry_penalties([5, 5, 5], frozenset(), 1.0, 2.0, 1) == {5: 2.0}
    assert dry_penalties([], frozenset(), 1.0, 2.0, 1) == {}
    chance = random.Random(4)
    for _ in range(400):
        seen = [chance.randrange(4) for _ in range(chance.randrange(1, 30))]
        breakers = frozenset(chance.sample(range(4), chance.randrange(3)))
        arguments = (seen, breakers, 0.7, 1.5, chance.randrange(1, 4))
        assert dry_penalties(*arguments) == pytest.approx(by_definition(*arguments))


def test_a_repetition_of_any_length_has_a_finite_penalty() -> None:
    assert dry_penalties([7] * 2000, frozenset(), 1.0, 100.0, 1) == {7: pytest.approx(100.0**LONGEST)}
    assert dry_penalties([7] * 2000, frozenset(), 1.0, 2.0, 80) == {7: 2.0**LONGEST}, "the allowed length may be any"


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e300])
@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": ((2, -1e39), (3, -1e300))},
        {"frequency_penalty": 1e300},
        {"presence_penalty": 1e39},
        {"repetition_penalty": 1e300},
        {"repetition_penalty": 1e-320},
        {"dry_multiplier": 1e300, "dry_base": 1e300, "dry_allowed_length": 1},
    ],
    ids=str,
)
def test_the_most_extreme_options_draw_nothing_that_is_not_allowed(options: dict[str, Any], temperature: float) -> None:
    place = Place([2, 3] * 9, masks=[torch.tensor([False, False, True, True])])
    config = SamplingConfig(temperature=temperature, **options)
    for logits in (LOGITS, -LOGITS, 0 * LOGITS):
        drawn = {choose_token(logits, place, config, row_generator(seed, 0)) for seed in range(20)}
        assert drawn <= {2, 3}
        *_, (_, last) = stages(logits, place, config)
        assert not last.isnan().any()


def tokens(**options: Any) -> tuple[list[int], str | None]:
    """What follows 3 4 5 …; 6 is EOS."""
    request = Request(0, [3], SamplingConfig(**{"max_tokens": 6, **options}), eos=frozenset({6}))
    steps = list(decode_rows(FakeForward(counting()), [request]))
    assert steps[-1].error is None
    return token_rows(steps)[0], steps[-1].finish_reason


def test_min_tokens_ignore_eos_and_stop_tokens() -> None:
    assert tokens() == ([4, 5, 6], "eos")
    assert tokens(min_tokens=2) == ([4, 5, 6], "eos")
    # The most likely token after 5 is out; the first of those that are left is 0.
    assert tokens(min_tokens=3) == ([4, 5, 0, 1, 2, 3], "length")
    assert tokens(ignore_eos=True) == ([4, 5, 0, 1, 2, 3], "length")
    assert tokens(stop_token_ids=(5,)) == ([4, 5], "stop")
    assert tokens(stop_token_ids=(5,), min_tokens=1) == ([4, 5], "stop")
    assert tokens(stop_token_ids=(4,), min_tokens=2) == ([0, 1, 2, 3, 4], "stop")
    assert tokens(stop_token_ids=(6,), ignore_eos=True) == ([4, 5, 0, 1, 2, 3], "length")


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ({"min_tokens": 65}, "--min-tokens"),
        ({"min_tokens": -1}, "--min-tokens"),
        ({"stop_token_ids": [-1]}, "--stop-token"),
        ({"stop_token_ids": ["x"]}, "--stop-token"),
        ({"stop_token_ids": 5}, "--stop-token"),
        ({"ban": [""]}, "--ban"),
        ({"ban": "\ufffd"}, "--ban"),
        ({"ban": ["x" * 1001]}, "--ban"),
        ({"stop_at": "word"}, "--stop-at"),
        ({"stop_at": 1}, "--stop-at"),
        ({"ignore_eos": 1}, "--ignore-eos"),
        ({"loop_guard": "yes"}, "--loop-guard"),
        ({"dry_multiplier": -1}, "--dry-multiplier"),
        ({"dry_base": 0.5}, "--dry-base"),
        ({"dry_allowed_length": 0}, "--dry-allowed-length"),
        ({"dry_sequence_breakers": [""]}, "--dry-sequence-breaker"),
    ],
    ids=str,
)
def test_values_out_of_range_name_the_flag(option: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag} "):
        SamplingConfig.from_given(option)
    (name,) = option
    assert (flag_of(name), option_of(flag)) == (flag, name)


def test_the_loop_guard_is_on_by_default_for_greedy_rows_alone() -> None:
    def guarded(**given: Any) -> bool:
        return SamplingConfig.from_given(given, guarded=True).loop_guard

    assert guarded()
    assert not guarded(temperature=0.5)
    assert not guarded(top_p=0.5)
    assert guarded(temperature=0.5, loop_guard=True)
    assert not guarded(loop_guard=False)
    assert not SamplingConfig.from_given({}).loop_guard
    assert loop_only(SamplingConfig(ban=("x",))) == "--ban"
    assert loop_only(SamplingConfig(min_tokens=3, ignore_eos=True, stop_at="line")) is None
