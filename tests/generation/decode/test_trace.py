"""The trace: what each processor did, by the very code that chooses the token."""

import math

import pytest
import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.processors import Place, stages
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.decode.trace import Trace
from tests.support.models.fakes import FakeForward

SHARES = [0.4, 0.3, 0.2, 0.06, 0.04]


def traced(config: SamplingConfig, count: int = 3, **options: object) -> Trace:
    forward = FakeForward(lambda tokens: torch.tensor(SHARES).log())
    request = Request(0, [1], config, trace=count, **options)  # type: ignore[arg-type]
    *_, last = decode_rows(forward, [request])
    assert last.trace is not None
    assert last.scored is not None
    assert [one.token for one in last.trace.candidates if one.taken] == [last.scored.token]
    return last.trace


def test_every_stage_of_a_sampled_step() -> None:
    config = SamplingConfig(max_tokens=1, temperature=0.5, top_k=4, top_p=0.8, seed=1, repetition_penalty=2.0)
    found = traced(config, count=5)
    assert found.stages == ("allowed", "repetition penalty", "temperature", "top-k", "top-p")
    after = {name: logits.softmax(-1) for name, logits in stages(torch.tensor(SHARES).log(), Place([1]), config)}
    for one in found.candidates:
        assert one.model == pytest.approx(SHARES[one.token])
        assert one.penalized == pytest.approx(float(after["repetition penalty"][one.token]))
        assert one.tempered == pytest.approx(float(after["temperature"][one.token]))
        assert one.drawn == pytest.approx(float(after["top-p"][one.token]))
        assert (one.cut is None) == (one.drawn > 0)
    assert {one.token: one.cut for one in found.candidates} == {0: None, 1: "top-p", 2: None, 3: "top-p", 4: "top-k"}
    assert found.entropy == pytest.approx(-sum(share * math.log2(share) for share in SHARES))


def test_a_greedy_step_has_no_temperature_and_one_outcome() -> None:
    found = traced(SamplingConfig(max_tokens=1), eos=frozenset({0}))
    assert found.stages == ("allowed",)
    assert [(one.token, one.tempered, one.drawn, one.cut) for one in found.candidates] == [
        (0, None, 1.0, None),
        (1, None, 0.0, None),
        (2, None, 0.0, None),
    ]
    banned = traced(SamplingConfig(max_tokens=1, min_tokens=1), eos=frozenset({0}))
    assert [(one.token, one.penalized > 0, one.cut, one.taken) for one in banned.candidates] == [
        (0, False, "never", False),
        (1, True, None, True),
        (2, True, None, False),
    ]


def test_the_token_taken_is_shown_also_where_it_is_not_among_the_most_likely() -> None:
    found = traced(SamplingConfig(max_tokens=1, logit_bias=((4, 50.0),)), count=2)
    assert [(one.token, one.taken) for one in found.candidates] == [(0, False), (1, False), (4, True)]
