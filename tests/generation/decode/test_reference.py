"""The check finds what is wrong: a loop over another model, or one that is slightly off."""

from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.reference import Check, compare
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.transformers_forward import TransformersForward
from tests.support.models.fakes import scored_rows
from tests.support.models.tiny_models import load_llama, write_tiny_llama

CPU = torch.device("cpu")
PROMPTS = [[1, 50, 60, 70], [1], [1, *range(40, 100)]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_llama(write_tiny_llama(tmp_path_factory.mktemp("check") / "model"))


def check(model: Any, forward: Any, prompts: list[list[int]], max_tokens: int, eos: frozenset[int]) -> list[Check]:
    """What the loop makes of prompts in one batch, compared with the model."""
    requests = [Request(row, ids, SamplingConfig(max_tokens, logprobs=0), eos=eos) for row, ids in enumerate(prompts)]
    made = scored_rows(decode_rows(forward, requests, max_rows=len(prompts)))
    return [compare(model, CPU, request, made.get(request.row, [])) for request in requests]


def test_the_loop_passes(model: Any) -> None:
    checks = check(model, TransformersForward(model, CPU), PROMPTS, 12, frozenset({2}))
    assert [one.row for one in checks] == [0, 1, 2]
    assert all(one.same for one in checks)
    assert all(one.tokens == one.generate_tokens and len(one.tokens) == 12 for one in checks)
    assert all(0 < one.logprob_difference < 1e-4 for one in checks)
    assert check(model, TransformersForward(model, CPU), PROMPTS[:1], 0, frozenset())[0].same, "no tokens are equal"


def test_eos_ends_both_and_is_compared(model: Any) -> None:
    forward = TransformersForward(model, CPU)
    plain = check(model, forward, PROMPTS[:1], 6, frozenset())[0]
    ended = check(model, forward, PROMPTS[:1], 6, frozenset({plain.tokens[2]}))[0]
    assert ended.same
    assert ended.tokens == plain.tokens[: plain.tokens.index(plain.tokens[2]) + 1]


def test_another_model_is_noticed(model: Any, tmp_path: Path) -> None:
    other = load_llama(write_tiny_llama(tmp_path / "other", seed=1))
    found = check(model, TransformersForward(other, CPU), PROMPTS[:1], 12, frozenset())[0]
    assert not found.same
    assert found.first_difference is not None
    assert found.tokens[found.first_difference] != found.generate_tokens[found.first_difference]
    assert found.margin is not None
    assert found.logprob_difference > 0.01


def test_a_forward_pass_that_is_slightly_off_is_noticed_by_its_logprobs(model: Any) -> None:
    class Off(TransformersForward):
        def decode(self, tokens: Any, caches: list[KVCache]) -> torch.Tensor:  # type: ignore[override]
            return super().decode(tokens, caches) * 1.001

    found = check(model, Off(model, CPU), PROMPTS[2:], 12, frozenset())[0]
    assert found.first_difference is None
    assert not found.same
