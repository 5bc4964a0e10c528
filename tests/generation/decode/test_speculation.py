"""Drafts from the row's own text: they save passes and change no result."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows, draft
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.forward.lean import LeanForward
from openllama_cli.generation.forward.transformers_forward import Forward, TransformersForward
from openllama_cli.generation.forward.weights import from_transformers
from tests.support.models.fakes import FakeForward, token_rows
from tests.support.models.tiny_models import load_llama, write_tiny_llama


@pytest.mark.parametrize(
    ("tokens", "count", "expected"),
    [
        ([1, 2, 3, 4, 5, 2, 3], 3, [4, 5, 2]),
        ([1, 2, 3, 9, 2, 3, 8, 2, 3], 2, [8, 2]),
        ([9, 1, 2, 3, 4, 7, 8, 3, 4, 6, 9, 1, 2, 3, 4], 2, [7, 8]),
        ([1, 2, 3, 4], 3, []),
        ([1, 2, 1], 3, []),
        ([1, 2, 1, 2], 0, []),
        ([5], 4, []),
        ([], 4, []),
    ],
)
def test_drafts_are_what_followed_the_latest_longest_match(tokens: list[int], count: int, expected: list[int]) -> None:
    assert draft(tokens, count) == expected


def run(forward: Any, prompts: Sequence[Sequence[int]], config: SamplingConfig, speculate: int) -> list[list[int]]:
    eos = frozenset({2})
    requests = [Request(row, prompt, config, eos=eos, speculate=speculate) for row, prompt in enumerate(prompts)]
    return token_rows(decode_rows(forward, requests, max_rows=4))


def repeating(tokens: Sequence[int]) -> torch.Tensor:
    """The text goes 3 4 5 6 7 3 4 5 6 7 …"""
    logits = torch.zeros(16)
    logits[3 + (tokens[-1] - 2) % 5] = 5.0
    return logits


def test_a_text_that_repeats_itself_takes_few_passes() -> None:
    plain, drafting = FakeForward(repeating), FakeForward(repeating)
    config = SamplingConfig(40)
    assert run(plain, [[3, 4, 5, 6, 7, 3]], config, 0) == run(drafting, [[3, 4, 5, 6, 7, 3]], config, 8)
    assert len(plain.decoded_rows) == 39
    assert len(drafting.decoded_rows) + len(drafting.prefilled) < 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_llama(write_tiny_llama(tmp_path_factory.mktemp("speculation") / "model", context=256))


@pytest.mark.parametrize(("kind", "temperature"), [("lean", 0), ("lean", 1.0), ("transformers", 1.0)])
def test_drafts_change_no_token_of_any_row(model: Any, kind: str, temperature: float) -> None:
    lean, device = LeanForward(from_transformers(model)), torch.device("cpu")
    forward: Forward = lean if kind == "lean" else TransformersForward(model, device)
    rng = random.Random(0)
    words = [[rng.randrange(3, 400) for _ in range(5)] for _ in range(3)]
    prompts = [[1, *(token for _ in range(10) for token in rng.choice(words))] for _ in range(5)]
    config = SamplingConfig(30, temperature=temperature, top_k=3, seed=1, repetition_penalty=1.0)
    plain = run(forward, prompts, config, 0)
    for speculate in (1, 10):
        assert run(forward, prompts, config, speculate) == plain


def test_drafts_never_go_beyond_the_context(model: Any) -> None:
    prompt = [1, *[10, 11, 12, 13] * 62]
    plain = run(LeanForward(from_transformers(model)), [prompt], SamplingConfig(50), 0)
    assert run(LeanForward(from_transformers(model)), [prompt], SamplingConfig(50), 20) == plain
    assert len(plain[0]) == 256 - len(prompt)
