"""What rank 0 tells the other ranks is enough for them to run the same forward passes, whatever the decode loop does."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.distributed.forward import LeaderForward, follow
from openllama_cli.generation.distributed.group import Group
from openllama_cli.generation.forward.cache import KVCache, PrefixCache
from openllama_cli.generation.forward.transformers_forward import TransformersForward
from tests.support.models.tiny_models import load_llama


class Recorder(TransformersForward):
    """A forward pass that remembers what came out."""

    def __init__(self, forward: TransformersForward) -> None:
        super().__init__(forward._model, forward._device)
        self.logits: list[torch.Tensor] = []

    def _run(self, *arguments: Any, **options: Any) -> torch.Tensor:
        self.logits.append(super()._run(*arguments, **options))
        return self.logits[-1]


class Written(Group):
    """Followers that read later, as they would from the network."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def broadcast(self, command: dict[str, Any] | None) -> None:
        self.sent.append(json.dumps(command))

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        yield

    def commands(self) -> Iterator[dict[str, Any]]:
        yield from map(json.loads, self.sent)


@pytest.fixture(scope="module")
def forward(tiny_model: Path) -> TransformersForward:
    return TransformersForward(load_llama(tiny_model), torch.device("cpu"))


def test_followers_run_what_the_loop_runs_with_shared_prefixes_drafts_and_rows_that_come_and_go(
    forward: TransformersForward,
) -> None:
    wire, leader = Written(), Recorder(forward)
    few_shot = [1, *(7 + number % 50 for number in range(130))]
    prompts = [[*few_shot, 9], [*few_shot, 11, 12], [1, 5], [1, *[20, 21, 22] * 5], [*few_shot, 9]]
    requests = [
        Request(row, prompt, SamplingConfig(max_tokens=12 + row), score=row == 2, speculate=4 if row == 3 else 0)
        for row, prompt in enumerate(prompts)
    ]
    requests.append(Request(len(prompts), prompts[0], SamplingConfig(), branches=[[5, 6], [5, 7, 8], [9]]))
    leading = LeaderForward(leader, wire)
    events = list(decode_rows(leading, requests, max_rows=2, prefixes=PrefixCache()))
    assert any("copy_of" in command for command in wire.sent)
    plain = list(decode_rows(forward, requests, max_rows=2, prefixes=PrefixCache()))
    assert events == plain

    follower = Recorder(forward)
    follow(follower, wire.commands(), wire.collective)
    assert len(follower.logits) == len(leader.logits)
    assert all(torch.equal(theirs, ours) for theirs, ours in zip(follower.logits, leader.logits, strict=True))


def test_memory_that_runs_out_while_a_prefix_is_copied_is_told_as_in_a_forward_pass(
    forward: TransformersForward, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def collective() -> Iterator[None]:
        try:
            yield
        except MemoryError:
            told.append("out of memory")

    monkeypatch.setattr(KVCache, "copy_from", Mock(side_effect=MemoryError))
    how = {"every": False, "drafted": False}
    first: dict[str, Any] = {"freed": [], "prefill": [1, 5], **how, "rows": [{"cache": 0, "length": 0, "capacity": 4}]}
    copied = {**first, "rows": [{"cache": 1, "length": 1, "capacity": 4, "copy_of": 0}]}
    follow(forward, iter([first, copied]), collective)
    assert told == ["out of memory"]


def test_followers_forget_the_caches_that_rank_0_forgot(forward: TransformersForward) -> None:
    wire = Written()
    leading = LeaderForward(forward, wire)
    for token in range(5):
        leading.prefill([1, token], KVCache(4))
    freed = [number for command in wire.commands() for number in command["freed"]]
    assert len(freed) == 4
    assert freed == sorted(set(freed))
