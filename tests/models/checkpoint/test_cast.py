"""Converting weights: the same bits as torch's own conversion, also where a checkpoint is loaded with it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.models.checkpoint.tensors import cast
from openllama_cli.models.loading import load as load_module
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.native import library
from tests.support.models.tiny_models import change_config, tiny_config, tiny_state_dict, write_meta_llama, write_tiny_llama

EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)


def random(*shape: int) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100).half()


def test_float16_is_converted_as_in_torch() -> None:
    shapes = [random(*shape) for shape in ((3, 5), (700, 800), (1,), (0,), ())]
    for numbers in (EVERY, random(40, 30).T, *shapes):
        for dtype in (torch.bfloat16, torch.float32):
            assert torch.equal(cast(numbers, dtype).float().nan_to_num(7), numbers.to(dtype).float().nan_to_num(7))


@pytest.mark.parametrize("kind", ["safetensors", "bin", "meta"])
def test_a_float16_checkpoint_is_loaded_in_bfloat16(tmp_path: Path, kind: str) -> None:
    folder, options = tmp_path / "tiny", {"dtype": "float16"}
    write_meta_llama(folder, **options) if kind == "meta" else write_tiny_llama(folder, safe=kind == "safetensors", **options)
    loaded = load(OpenedModel.of(ModelFolder(folder, "tiny")), ModelSpec(device="cpu", dtype="bfloat16"))
    assert loaded.model is not None
    assert loaded.dtype == torch.bfloat16
    found = loaded.model.state_dict()
    expected = tiny_state_dict(tiny_config(dtype="float16"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.bfloat16()), name


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
    loaded = load(OpenedModel.of(ModelFolder(folder, "tiny")), ModelSpec(device="cpu"), one_row=True)
    assert loaded.dtype == (torch.float16 if kept else torch.bfloat16)


@pytest.mark.parametrize(("lean", "act", "narrow"), [(True, "silu", True), (False, "silu", False), (True, "gelu", False)])
def test_without_bfloat16_in_the_processor_it_is_the_type_of_what_olcs_kernels_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lean: bool, act: str, narrow: bool
) -> None:
    folder = write_tiny_llama(tmp_path, dtype="float16")
    change_config(folder, hidden_act=act)
    monkeypatch.setattr(library, "usable", lambda: True)
    monkeypatch.setattr("openllama_cli.system.device.cpu_instructions", lambda: {"avx2"})
    loaded = load(OpenedModel.of(ModelFolder(folder, "tiny")), ModelSpec(device="cpu"), lean=lean)
    assert loaded.dtype == (torch.float16 if narrow else torch.float32)


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
    load(OpenedModel.of(ModelFolder(folder, "tiny")), spec)
    assert told["cast_first"] is converted
    # Memory that the converted weights fill already would be counted once more.
    assert told["device_map"] == ("auto" if device == "auto" and not converted else {"": torch.device("cpu")})
