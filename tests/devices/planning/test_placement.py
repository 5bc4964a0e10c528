"""The plan is what loading does: compared layer by layer with models that are really loaded under tight limits."""

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers.integrations import accelerate as hf_accelerate

from openllama_cli.devices.planning.memory import plan_dtype
from openllama_cli.devices.planning.placement import auto_device_map, loading_budget, look_up, parts, quantized_parts, skeleton
from openllama_cli.models.catalogue import CATALOGUE
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.quantize.rounding import Int4Layout, NativeLayout, TorchLayout
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.system.device import DtypeName
from openllama_cli.system.quiet import quiet_transformers
from tests.support.machines import GB, cpu_with, facts, gpu, mps
from tests.support.models.tiny_models import write_tiny_llama

LAYERS = 6
# Of the model's bytes: what the memory is limited to.
SHARES = (0.4, 0.6, 0.8, 0.95, 1.2, 1.6)


@pytest.fixture(scope="module", params=[False, True], ids=["own output", "tied output"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("plan") / "model", layers=LAYERS, tie=request.param)


def real_parts(model: Any) -> dict[str, tuple[str, int]]:
    """Part of the model → where its weights are, and their bytes. What is offloaded to disk is "meta" in memory."""
    found: dict[str, tuple[str, int]] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")
        part = ".".join(words[:3]) if words[1] == "layers" else name.removesuffix(".weight")
        where = "disk" if parameter.device.type == "meta" else parameter.device.type
        size = found.get(part, (where, 0))[1]
        assert found.get(part, (where, 0))[0] == where, f"{part} is in two places"
        found[part] = where, size + parameter.nbytes
    return found


@pytest.mark.parametrize(("share", "dtype"), list(zip(SHARES, ["float32", "bfloat16"] * 3, strict=True)))
def test_a_model_loaded_under_a_tight_limit_lies_where_the_plan_says(
    folder: Path, share: float, dtype: DtypeName, tmp_path: Path
) -> None:
    checkpoint = inspect(folder)
    planned_model = skeleton(checkpoint.config, dtype)
    whole = sum(part.bytes for part in parts(planned_model, {"": "cpu"}))
    limit = int(share * whole)

    planned = parts(planned_model, auto_device_map(planned_model, {"cpu": limit}))
    found = OpenedModel.of(ModelFolder(folder, folder.name))
    model = load(found, ModelSpec(dtype=dtype), max_memory={"cpu": limit}).model
    real = real_parts(model)
    if any(where == "disk" for where, _ in real.values()):
        assert auto_device_map(planned_model, {"cpu": limit}) == model.hf_device_map
    assert {part.module: part.device for part in planned if part.module in real} == {
        part: where for part, (where, _) in real.items()
    }
    for device in ("cpu", "disk"):
        bytes_planned = sum(part.bytes for part in planned if part.device == device)
        bytes_real = sum(size for where, size in real.values() if where == device)
        assert bytes_planned == pytest.approx(bytes_real, rel=0.05, abs=64)


@pytest.mark.parametrize("alias", [alias for alias, entry in CATALOGUE.items() if entry.shape is not None])
def test_published_models_are_built_without_weights_and_have_every_number(alias: str) -> None:
    shape = CATALOGUE[alias].shape
    assert shape is not None
    model = skeleton(shape.config(), "float16")
    assert {name: tuple(tensor.shape) for name, tensor in model.named_parameters()} == shape.tensors()
    assert {tensor.device.type for tensor in model.parameters()} == {"meta"}
    placed = parts(model, {"": "cpu"})
    assert sum(part.is_layer for part in placed) == shape.layers
    assert sum(part.bytes for part in placed) == pytest.approx(2 * shape.parameters(), rel=1e-6)


@pytest.mark.parametrize(
    ("alias", "machine"),
    [
        ("3b", facts()),
        ("13b", facts(gpu(free=11))),
        ("3b", facts(gpu(free=23.5, total=24))),
        ("13b", facts(gpu(0, free=11), gpu(1, free=10))),
        ("13b", facts(*(gpu(index, free=8) for index in range(4)))),
        ("3b", facts(mps())),
        ("13b", facts(mps(), cpu=cpu_with(20))),
    ],
    ids=["cpu", "small GPU", "large GPU", "two GPUs", "four GPUs", "Apple", "small Apple"],
)
def test_the_memory_that_is_reckoned_with_gives_the_map_that_transformers_itself_would(
    alias: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks accelerate for the free memory; given the same answer, it chooses the same map on its own."""
    available = machine.cpu.memory_available
    answer: dict[int | str, float] = {index: found.memory_free for index, found in enumerate(machine.accelerators)}
    answer = {"mps": available} if any(found.device == "mps" for found in machine.accelerators) else answer | {"cpu": available}
    real = hf_accelerate.accelerate_max_memory
    monkeypatch.setattr(
        hf_accelerate, "accelerate_max_memory", lambda given=None: dict(answer) if given is None else real(given)
    )
    model = skeleton(look_up(alias).config, "float16")
    with quiet_transformers():
        chosen = hf_accelerate._get_device_map(model, "auto", None, None)
    ours = auto_device_map(model, loading_budget(available, machine.accelerators))
    assert ours == chosen


def test_the_memory_of_this_machine_is_reckoned_as_transformers_does() -> None:
    if torch.accelerator.is_available():
        pytest.skip("reckons with the CPU alone")
    budget = loading_budget(psutil.virtual_memory().available, ())
    assert budget == pytest.approx(hf_accelerate.get_max_memory(None), rel=0.05)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize(
    ("method", "layout"),
    [("int8", TorchLayout()), ("int4", TorchLayout()), ("int4", NativeLayout())],
    ids=["int8", "torch", "native"],
)
def test_quantized_models_have_the_bytes_that_quantizing_makes(
    tmp_path: Path, method: Any, layout: Int4Layout, tie: bool
) -> None:
    from openllama_cli.models.quantize.weights import quantized

    folder = write_tiny_llama(tmp_path / "model", heads=16, kv_heads=16, intermediate=384, tie=tie, dtype="float16")
    checkpoint = inspect(folder)
    made = sum(tensor.nbytes for name, tensor in quantized(checkpoint, method, layout, lambda _: None) if "rotary" not in name)
    planned = quantized_parts(checkpoint.shape, method, 2)
    assert {part.device for part in planned} == {"cpu"}
    assert sum(part.is_layer for part in planned) == checkpoint.shape.layers
    assert sum(part.bytes for part in planned) == pytest.approx(made, rel=0.01)


def test_nothing_is_downloaded_and_no_cache_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    assert plan_dtype(look_up("13b"), "float16", facts(gpu(free=40))).weights_bytes > 26 * GB
    assert not (tmp_path / "hub").exists()
