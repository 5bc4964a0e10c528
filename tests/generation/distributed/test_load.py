"""Where ranks compute and what they talk through, on machines that are only pretended; real ranks are in test_torchrun.py."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from openllama_cli.errors import OlcError
from openllama_cli.generation.distributed import load as sharded
from openllama_cli.generation.distributed.group import Group
from openllama_cli.models.checkpoint.inspect import Checkpoint, inspect
from openllama_cli.models.loading.ranks import RankInfo
from openllama_cli.models.spec import ModelSpec


@pytest.fixture
def checkpoint(tiny_model: Path) -> Checkpoint:
    return inspect(tiny_model)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The groups that are formed: (backend, device). There are two GPUs."""
    formed: list[tuple[str, Any]] = []
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    # The package has a function of the module's name.
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setattr(rendezvous, "rendezvous", lambda *_, **__: iter([(dist.HashStore(),)]))
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **rest: formed.append((backend, rest["device_id"])))
    monkeypatch.setattr(dist, "new_group", lambda **rest: formed.append((rest["backend"], None)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(Group, "_rendezvous", lambda _: None)
    return formed


@pytest.mark.parametrize(("found", "computes"), [("cuda:0", "cuda"), ("cpu", "cpu"), ("mps", "cpu")])
def test_gpus_are_used_where_there_are_those_of_cuda_and_nccl(
    found: str, computes: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded, "main_device", lambda _: torch.device(found))
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    assert sharded.choose_device(ModelSpec(dtype="float32"), checkpoint) == (computes, "float32")
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    if computes == "cuda":
        with pytest.raises(OlcError, match="no NCCL") as caught:
            sharded.choose_device(ModelSpec(), checkpoint)
        assert "--device cpu" in caught.value.remedy


def test_gpus_talk_through_nccl_and_processors_through_gloo(started: list[tuple[str, Any]]) -> None:
    on_gpu, on_cpu = (Group(RankInfo(rank=1, size=2, local_rank=1, local_size=2)) for _ in range(2))
    on_gpu.join("cuda")
    on_cpu.join("cpu")
    second = torch.device("cuda", 1)
    assert started == [("nccl", second), ("gloo", None), ("gloo", None), ("gloo", None)], "commands always go through gloo"
    assert (on_gpu.device, on_cpu.device) == (second, torch.device("cpu"))


def test_more_processes_on_a_host_than_gpus_are_told(started: list[tuple[str, Any]]) -> None:
    with pytest.raises(OlcError, match=r"torchrun started 3 processes on .*, which has 2 GPUs") as caught:
        Group(RankInfo(rank=5, size=6, local_rank=2, local_size=3)).join("cuda")
    assert caught.value.remedy == "use --nproc-per-node 2, or --device cpu"
    assert started == []
