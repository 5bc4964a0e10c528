"""Weights and KV cache against free memory: the arithmetic, and the verdict for machines of many sizes."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from openllama_cli.devices.machine.facts import Facts
from openllama_cli.devices.planning.memory import DtypePlan, free_memory, plan_dtype
from openllama_cli.devices.planning.placement import KnownModel, look_up
from openllama_cli.errors import HubError, ModelError
from openllama_cli.models.find import demo_folder
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from tests.support.machines import GB, cpu_with, facts, gpu, measurement, mps

CONTAINER = cpu_with(32, memory_limit=10 * GB, memory_left=9 * GB)


def planned(name: str, dtype: str, machine: Facts, device: str = "auto") -> DtypePlan:
    return plan_dtype(look_up(name), dtype, machine, device)


@pytest.mark.parametrize(
    ("alias", "dtype", "weights_gb", "token", "row_gb"),
    [
        # 2 (keys, values) × layers × hidden × bytes, and that × 2048.
        ("3b", "float16", 6.853, 2 * 26 * 3200 * 2, 0.6816),
        ("7b", "float16", 13.477, 2 * 32 * 4096 * 2, 1.0737),
        ("7b", "float32", 26.954, 2 * 32 * 4096 * 4, 2.1475),
        ("13b", "bfloat16", 26.032, 2 * 40 * 5120 * 2, 1.6777),
        ("13b", "int4", 7.63, 2 * 40 * 5120 * 2, 1.6777),
    ],
)
def test_weights_and_cache_of_the_published_models(
    alias: str, dtype: str, weights_gb: float, token: int, row_gb: float
) -> None:
    plan = planned(alias, dtype, facts(cpu=cpu_with(100)))
    assert plan.weights_bytes / 1e9 == pytest.approx(weights_gb, rel=1e-3)
    assert plan.cache_bytes_per_token == token
    assert plan.cache_bytes_per_row / 1e9 == pytest.approx(row_gb, rel=1e-3)
    assert plan.rows == (100 * GB - plan.weights_bytes) // plan.cache_bytes_per_row
    assert plan.verdict == "fits"


def test_the_cache_of_the_demo_has_the_size_that_generating_takes() -> None:
    folder = ModelFolder(demo_folder(), "demo", "demo")
    model = load(OpenedModel.of(folder), ModelSpec(dtype="float32", device="cpu")).model
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(torch.arange(3, 20)[None], None, None, cache)  # by its place: its name depends on transformers' version
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)  # type: ignore[union-attr]
    plan = planned("demo", "float32", facts())
    assert plan.cache_bytes_per_token * 17 == real
    assert plan.weights_bytes == pytest.approx(sum(weight.nbytes for weight in model.parameters()), rel=1e-3)


@pytest.mark.parametrize(
    ("machine", "device", "verdict", "words"),
    [
        (facts(cpu=cpu_with(32)), "auto", "fits", "fits"),
        (facts(cpu=cpu_with(12)), "auto", "fits_with_disk", "fits with 7 of 32 layers on disk"),
        (facts(cpu=cpu_with(12)), "cpu", "does_not_fit", "does not fit: cpu is 2.6 GB short"),
        (facts(cpu=cpu_with(14)), "cpu", "fits_in_part", "fits, up to 997 tokens"),
        (facts(cpu=CONTAINER), "auto", "does_not_fit", "does not fit: cpu is 5.6 GB short"),
        (facts(gpu(free=24)), "auto", "fits", "fits"),
        (facts(gpu(free=11)), "auto", "fits_with_cpu", "fits with 10 of 32 layers on the CPU"),
        (facts(gpu(free=11)), "cuda:0", "does_not_fit", "does not fit: cuda:0 is 3.6 GB short"),
        (facts(gpu(0, free=10), gpu(1, free=10)), "auto", "fits", "fits"),
        (facts(gpu(0, free=10), gpu(1, free=20)), "cuda:1", "fits", "fits"),
        (facts(mps()), "auto", "fits", "fits"),
        (
            facts(gpu(free=11), cpu=cpu_with(4)),
            "auto",
            "fits_with_disk",
            "fits with 7 of 32 layers on the CPU and 3 of 32 layers on disk",
        ),
    ],
)
def test_verdicts_of_7b_in_float16(machine: Facts, device: str, verdict: str, words: str) -> None:
    plan = planned("7b", "float16", machine, device)
    assert (plan.verdict, plan.verdict_text) == (verdict, words)


def test_everything_is_counted_once_and_offloaded_layers_are_computed_and_cached_on_the_gpu() -> None:
    plan = planned("13b", "float16", facts(gpu(0, free=11), gpu(1, free=10)))
    assert {load.device for load in plan.devices} == {"cuda:0", "cuda:1", "cpu"}
    assert sum(load.weights_bytes for load in plan.devices) == plan.weights_bytes
    assert sum(load.layers for load in plan.devices) == 40
    assert sum(load.cache_bytes for load in plan.devices) == plan.cache_bytes_per_row
    first, _, last = plan.devices
    assert (first.device, last.device, last.cache_bytes) == ("cuda:0", "cpu", 0)
    assert first.reserved_bytes == max(part.bytes for part in plan.parts if part.device == "cpu")
    one = planned("7b", "float16", facts(gpu(free=11))).devices[0]
    assert one.weights_bytes + one.reserved_bytes + one.cache_bytes <= gpu(free=11).memory_free


def test_rows_and_tokens_follow_from_the_tightest_device() -> None:
    plan = planned("7b", "float16", facts(gpu(0, free=10), gpu(1, free=10)))
    left = [load.free_bytes - load.weights_bytes for load in plan.devices if load.free_bytes is not None]
    assert plan.rows == min(room // load.cache_bytes for room, load in zip(left, plan.devices, strict=True))
    assert plan.tokens == 2048


def test_the_bound_on_speed_is_bandwidth_over_bytes() -> None:
    machine = facts(measured={"cpu": measurement(bandwidth=50.0)})
    plan = planned("3b", "bfloat16", machine)
    assert plan.tokens_per_s_at_most == pytest.approx(50e9 / (plan.weights_bytes - 2 * 32000 * 3200))
    assert planned("3b", "bfloat16", facts()).tokens_per_s_at_most is None
    both = facts(gpu(0, free=10), gpu(1, free=10), measured={f"cuda:{index}": measurement(1000.0) for index in (0, 1)})
    assert planned("7b", "float16", both).tokens_per_s_at_most == pytest.approx(1000 / (13.4768 - 0.2621), rel=1e-3)
    spilt = facts(gpu(free=11), measured={"cuda:0": measurement(1000.0), "cpu": measurement(50.0)})
    assert planned("7b", "float16", spilt).tokens_per_s_at_most is None


def test_memory_that_gpu_and_cpu_share_is_limited_as_the_cpu_is() -> None:
    found = free_memory(facts(mps(), gpu(free=11), cpu=CONTAINER))
    assert found == {"cpu": 9 * GB, "mps": 9 * GB, "cuda:0": 11 * GB}


def test_a_model_is_known_by_alias_hub_id_and_folder(tmp_model: Any) -> None:
    by_alias, by_id, by_folder = look_up("7b-v2"), look_up("openlm-research/open_llama_7b_v2"), look_up(str(tmp_model))
    assert by_alias.shape == by_id.shape
    assert by_alias.path is None
    assert by_alias.download_bytes > 13 * GB
    assert isinstance(by_folder, KnownModel)
    assert by_folder.path == tmp_model
    assert by_folder.dtype == "float32"
    assert by_folder.download_bytes == 0


def test_models_that_are_not_here_and_not_known_are_named() -> None:
    with pytest.raises(HubError, match="somebody/some-llama is not in the cache") as caught:
        look_up("somebody/some-llama")
    assert "olc models pull somebody/some-llama" in caught.value.remedy
    with pytest.raises(ModelError, match="does not exist"):
        look_up("./no/such/folder")
