"""The check finds what is wrong: a loop over another model, or one that is slightly off."""

from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.generation.decode.check import check
from openllama_cli.generation.decode.generate import generate
from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.transformers_forward import TransformersForward
from tests.support.tiny_models import write_tiny_llama

CPU = torch.device("cpu")
PROMPTS = [[1, 50, 60, 70], [1], [1, *range(40, 100)]]


def load(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(write_tiny_llama(tmp_path_factory.mktemp("check") / "model"))


def test_the_loop_passes(model: Any) -> None:
    checks = list(check(model, CPU, TransformersForward(model, CPU), PROMPTS, 12, frozenset({2})))
    assert [one.row for one in checks] == [0, 1, 2]
    assert all(one.same for one in checks)
    assert all(one.ours == one.theirs and len(one.ours) == 12 for one in checks)
    assert all(0 < one.logprob_difference < 1e-4 for one in checks)


def test_eos_ends_both_and_is_compared(model: Any) -> None:
    forward = TransformersForward(model, CPU)
    plain = next(check(model, CPU, forward, PROMPTS[:1], 6, frozenset()))
    ended = next(check(model, CPU, forward, PROMPTS[:1], 6, frozenset({plain.ours[2]})))
    assert ended.same
    assert ended.ours == plain.ours[: plain.ours.index(plain.ours[2]) + 1]


def test_no_tokens_are_equal(model: Any) -> None:
    assert next(check(model, CPU, TransformersForward(model, CPU), PROMPTS[:1], 0, frozenset())).same


def test_another_model_is_noticed(model: Any, tmp_path: Path) -> None:
    other = load(write_tiny_llama(tmp_path / "other", seed=1))
    found = next(check(model, CPU, TransformersForward(other, CPU), PROMPTS[:1], 12, frozenset()))
    assert not found.same
    assert found.first_difference is not None
    assert found.ours[found.first_difference] != found.theirs[found.first_difference]
    assert found.margin is not None
    assert found.logprob_difference > 0.01


def test_a_forward_pass_that_is_slightly_off_is_noticed_by_its_logprobs(model: Any) -> None:
    class Off(TransformersForward):
        def decode(self, tokens: Any, caches: list[KVCache]) -> torch.Tensor:  # type: ignore[override]
            return super().decode(tokens, caches) * 1.001

    found = next(check(model, CPU, Off(model, CPU), PROMPTS[2:], 12, frozenset()))
    assert found.first_difference is None
    assert not found.same


def test_generate_has_the_published_contract(model: Any) -> None:
    forward = TransformersForward(model, CPU)
    tokens, none = generate(forward, PROMPTS, 5, temperature=0)
    assert none is None
    assert [len(row) for row in tokens] == [5, 5, 5]
    echoed, logprobs = generate(forward, PROMPTS, 5, temperature=0, logprobs=True, echo=True)
    assert echoed == [prompt + row for prompt, row in zip(PROMPTS, tokens, strict=True)]
    assert logprobs is not None
    for row, values in zip(echoed, logprobs, strict=True):
        with torch.no_grad():
            full = model(torch.tensor([row])).logits[0].log_softmax(-1)
        assert values[0] is None
        expected = [float(full[place, token]) for place, token in enumerate(row[1:])]
        assert values[1:] == pytest.approx(expected, abs=1e-4)


def test_generate_cuts_at_eos_but_not_inside_an_echoed_prompt(model: Any) -> None:
    forward = TransformersForward(model, CPU)
    whole = generate(forward, PROMPTS[:1], 8, temperature=0)[0][0]
    eos = frozenset({whole[3], PROMPTS[0][1]})
    cut = generate(forward, PROMPTS[:1], 8, temperature=0, echo=True, eos=eos)[0][0]
    assert cut == PROMPTS[0] + whole[: next(place for place, token in enumerate(whole) if token in eos)]


def test_generate_draws_the_same_for_the_same_seed(model: Any) -> None:
    forward = TransformersForward(model, CPU)
    assert generate(forward, PROMPTS, 8, 1.0, 0.95, seed=3) == generate(forward, PROMPTS, 8, 1.0, 0.95, seed=3)
    assert generate(forward, PROMPTS, 8, 1.0, 0.95, seed=3) != generate(forward, PROMPTS, 8, 1.0, 0.95, seed=4)
