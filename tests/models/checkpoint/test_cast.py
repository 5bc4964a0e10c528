"""Converting weights: the same bits as torch's own conversion, also where a checkpoint is loaded with it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.models.checkpoint.tensors import cast
from openllama_cli.models.loading import load as load_module
from openllama_cli.models.loading.load import load
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.native import library
from tests.support.tiny_models import write_tiny_llama

EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)


def random(*shape: int) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100).half()


@pytest.mark.parametrize("shape", [(3, 5), (700, 800), (1,), (0,), ()])
def test_float16_becomes_bfloat16_as_in_torch(shape: tuple[int, ...]) -> None:
    assert torch.equal(cast(random(*shape), torch.bfloat16), random(*shape).bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("numbers", [EVERY, random(40, 30).T], ids=["every number", "transposed"])
def test_every_number_is_converted_right_and_in_its_order(numbers: torch.Tensor, dtype: torch.dtype) -> None:
    assert torch.equal(cast(numbers, dtype).float().nan_to_num(7), numbers.to(dtype).float().nan_to_num(7))


@pytest.mark.parametrize("safe", [True, False])
def test_a_float16_checkpoint_is_loaded_in_bfloat16(tmp_path: Path, safe: bool) -> None:
    folder = write_tiny_llama(tmp_path, dtype="float16", safe=safe, sharded=True)
    found = {}
    for dtype in ("float16", "bfloat16"):
        spec = ModelSpec(device="cpu", dtype=dtype)  # type: ignore[arg-type]
        loaded = load(ModelFolder(folder, "tiny"), spec)
        assert loaded.model is not None
        found[dtype] = loaded.model.state_dict()
    assert found["float16"].keys() == found["bfloat16"].keys()
    for name, tensor in found["float16"].items():
        assert torch.equal(found["bfloat16"][name], tensor.bfloat16()), name


@pytest.mark.parametrize(
    ("kernels", "amx", "free", "kept"),
    [(False, False, 10**12, True), (False, True, 10**12, False), (False, True, 10**3, True), (True, True, 10**12, True)],
)
def test_float16_stays_mapped_where_converting_does_not_pay_or_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: bool, amx: bool, free: int, kept: bool
) -> None:
    folder = write_tiny_llama(tmp_path, dtype="float16")
    monkeypatch.setattr(library, "usable", lambda: kernels)
    monkeypatch.setattr(library, "has_amx", lambda: amx)
    monkeypatch.setattr(load_module, "free_bytes", lambda device: free)
    monkeypatch.setattr(load_module, "WORTH_MAPPING", 0)
    monkeypatch.setattr("openllama_cli.system.device.cpu_instructions", lambda: {"avx512_bf16"})
    loaded = load(ModelFolder(folder, "tiny"), ModelSpec(device="cpu"), one_row=True)
    assert loaded.dtype == (torch.float16 if kept else torch.bfloat16)


@pytest.mark.parametrize(("free", "converted"), [(10**12, True), (10**3, False)])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_what_has_room_is_converted_and_placed_at_once_and_all_else_is_left_to_accelerate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, converted: bool, device: str
) -> None:
    if torch.accelerator.is_available():
        pytest.skip("the model would go to an accelerator")
    folder = write_tiny_llama(tmp_path, dtype="float16")
    monkeypatch.setattr(load_module, "free_bytes", lambda device: free)
    real, told = load_module.from_pretrained, {}

    def spy(*arguments: Any, **options: Any) -> Any:
        told.update(options)
        return real(*arguments, **options)

    monkeypatch.setattr(load_module, "from_pretrained", spy)
    spec = ModelSpec(device=device, dtype="float32")
    load(ModelFolder(folder, "tiny"), spec)
    assert told["cast_first"] is converted
    # Memory that the converted weights fill already would be counted once more.
    assert told["device_map"] == ("auto" if device == "auto" and not converted else {"": torch.device("cpu")})
