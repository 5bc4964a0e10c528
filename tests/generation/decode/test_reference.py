"""The check finds what is wrong: a loop over another model, or one that is slightly off."""

from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.generation.decode.reference import check
from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.transformers_forward import TransformersForward
from tests.support.models.tiny_models import load_llama, write_tiny_llama

CPU = torch.device("cpu")
PROMPTS = [[1, 50, 60, 70], [1], [1, *range(40, 100)]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_llama(write_tiny_llama(tmp_path_factory.mktemp("check") / "model"))


def test_the_loop_passes(model: Any) -> None:
    checks = list(check(model, CPU, TransformersForward(model, CPU), PROMPTS, 12, frozenset({2})))
    assert [one.row for one in checks] == [0, 1, 2]
    assert all(one.same for one in checks)
    assert all(one.tokens == one.generate_tokens and len(one.tokens) == 12 for one in checks)
    assert all(0 < one.logprob_difference < 1e-4 for one in checks)
    assert next(check(model, CPU, TransformersForward(model, CPU), PROMPTS[:1], 0, frozenset())).same, "no tokens are equal"


def test_eos_ends_both_and_is_compared(model: Any) -> None:
    forward = TransformersForward(model, CPU)
    plain = next(check(model, CPU, forward, PROMPTS[:1], 6, frozenset()))
    ended = next(check(model, CPU, forward, PROMPTS[:1], 6, frozenset({plain.tokens[2]})))
    assert ended.same
    assert ended.tokens == plain.tokens[: plain.tokens.index(plain.tokens[2]) + 1]


def test_another_model_is_noticed(model: Any, tmp_path: Path) -> None:
    other = load_llama(write_tiny_llama(tmp_path / "other", seed=1))
    found = next(check(model, CPU, TransformersForward(other, CPU), PROMPTS[:1], 12, frozenset()))
    assert not found.same
    assert found.first_difference is not None
    assert found.tokens[found.first_difference] != found.generate_tokens[found.first_difference]
    assert found.margin is not None
    assert found.logprob_difference > 0.01


def test_a_forward_pass_that_is_slightly_off_is_noticed_by_its_logprobs(model: Any) -> None:
    class Off(TransformersForward):
        def decode(self, tokens: Any, caches: list[KVCache]) -> torch.Tensor:  # type: ignore[override]
            return super().decode(tokens, caches) * 1.001

    found = next(check(model, CPU, Off(model, CPU), PROMPTS[2:], 12, frozenset()))
    assert found.first_difference is None
    assert not found.same
