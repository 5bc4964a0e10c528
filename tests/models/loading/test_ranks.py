import dataclasses

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.loading.ranks import RankInfo, check_ranks, one_process_only, rank_info, sizes
from openllama_cli.models.spec import ModelSpec

LLAMA = LlamaShape(hidden=3200, intermediate=8640, layers=26, heads=32, kv_heads=32, head_dim=100, vocab=32000, context=2048)
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def under_torchrun(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    set_environment(monkeypatch, {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(processes)})


def set_environment(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_the_place_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, TORCHRUN)
    assert rank_info() == RankInfo(rank=1, size=4, local_rank=1, local_size=2)
    assert not RankInfo(1, 4, 1, 2).one_host
    assert RankInfo(1, 2, 1, 2).one_host


@pytest.mark.parametrize(
    "env",
    [
        {},
        {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "2"},  # A training cluster's variables, without torchrun.
        {**TORCHRUN, "WORLD_SIZE": "many"},
    ],
)
def test_without_torchrun_or_with_one_process_it_is_an_ordinary_run(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    set_environment(monkeypatch, env)
    assert rank_info() is None
    one_process_only("--check")


def test_every_process_needs_whole_heads_and_key_value_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    divided = {(32, 32): [1, 2, 4, 8, 16, 32], (64, 8): [1, 2, 4, 8], (26, 26): [1, 2, 13, 26], (6, 2): [1, 2], (4, 1): [1]}
    for (heads, kv_heads), expected in divided.items():
        shape = dataclasses.replace(LLAMA, heads=heads, kv_heads=kv_heads)
        assert sizes(shape) == expected
        for processes in expected:
            under_torchrun(monkeypatch, processes)
            check_ranks(shape, ModelSpec(), "llama")


@pytest.mark.parametrize(
    ("processes", "kv_heads", "cause", "remedy"),
    [
        (3, 8, "llama cannot be split over 3 processes: its 32 heads and 8 key/value heads", "start 1, 2, 4 or 8 processes in"),
        (2, 1, "over 2 processes", "start 1 process in total"),
    ],
)
def test_a_number_that_does_not_divide_the_heads_is_refused_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch, processes: int, kv_heads: int, cause: str, remedy: str
) -> None:
    under_torchrun(monkeypatch, processes)
    with pytest.raises(UsageError) as caught:
        check_ranks(dataclasses.replace(LLAMA, kv_heads=kv_heads), ModelSpec(), "llama")
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy


def test_what_is_of_one_process_is_refused_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    under_torchrun(monkeypatch, 2)
    with pytest.raises(UsageError, match="--check needs a single process, but torchrun started 2"):
        one_process_only("--check")
    for device in ("mps", "cuda:1"):
        with pytest.raises(UsageError, match=device):
            check_ranks(LLAMA, ModelSpec(device=device), "3b")
    monkeypatch.delenv("LOCAL_RANK")
    check_ranks(LLAMA, ModelSpec(device="mps"), "3b")
