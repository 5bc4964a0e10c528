"""`load`: every format becomes the same model, where and as it was asked for, or an error of two lines."""

import contextlib
import json
import pickle
import random
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.read_errors import explained
from openllama_cli.models.loading.load import LoadedModel, load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.system.device import DtypeName
from tests.support.forked import Forked
from tests.support.models.tiny_models import (
    LLAMA3_ROPE,
    VOCAB,
    WRITERS,
    change_config,
    tiny_config,
    tiny_state_dict,
    write_meta_llama,
    write_tiny_llama,
)
from tests.support.progress import Recorder

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 5, 9, 77, 200, 31]])

# One file of Meta's format is a case of several.
KINDS = [kind for kind in WRITERS if kind != "meta"]


def load_folder(path: Path, *, dtype: DtypeName = "float32", device: str = "auto", **options: Any) -> LoadedModel:
    return load(OpenedModel.of(ModelFolder(path, path.name)), ModelSpec(dtype=dtype, device=device), **options)


def logits(loaded: LoadedModel) -> torch.Tensor:
    return loaded.model(IDS.to(loaded.input_device)).logits.float().cpu()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Logits of the tiny model, made by putting its weights into transformers' class by hand."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = tiny_config()
    config.pop("torch_dtype")
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    model.load_state_dict(tiny_state_dict(tiny_config()), strict=True)
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(("kind", "device"), [*((kind, "auto") for kind in KINDS), ("safetensors", "cpu"), ("bin", "cpu")])
def test_every_format_loads_to_the_same_model(tmp_path: Path, kind: str, device: str, expected: torch.Tensor) -> None:
    progress = Recorder()
    loaded = load_folder(WRITERS[kind](tmp_path / "model"), device=device, progress=progress)
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=0)
    label = f"loading {loaded.checkpoint.path.name}"
    assert (progress.labels, progress.finished) == ([label], 1)
    counts = progress.counts[label]
    assert progress.totals[label] == loaded.checkpoint.tensor_bytes == sum(counts), "every byte once"
    assert len(counts) > 10
    assert loaded.dtype == torch.float32 == loaded.model.dtype
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the whale")) == "the whale"
    assert loaded.load_seconds > 0
    if not torch.accelerator.is_available() or device == "cpu":
        assert (loaded.device, loaded.input_device) == ("cpu", torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "memory", "where"),
    [*((kind, 110_000, "cpu,disk") for kind in KINDS), ("sharded safetensors", 60_000, "disk"), ("bin", 150_000, "cpu,disk")],
)
@pytest.mark.skipif(torch.accelerator.is_available(), reason="places layers on the CPU and the disk alone")
def test_layers_offloaded_to_cpu_and_disk_compute_the_same(
    tmp_path: Path, kind: str, memory: int, where: str, expected: torch.Tensor
) -> None:
    loaded = load_folder(WRITERS[kind](tmp_path / "model"), max_memory={"cpu": memory})
    assert (loaded.device, loaded.input_device) == (where, torch.device("cpu"))
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="places layers on the disk alone")
def test_ids_go_to_the_cpu_also_when_the_embedding_itself_is_on_disk(tmp_path: Path) -> None:
    loaded = load_folder(write_tiny_llama(tmp_path), max_memory={"cpu": 1})
    assert loaded.model.hf_device_map == {"": "disk"}
    assert loaded.model.device == torch.device("meta")
    assert loaded.input_device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_layers_spread_over_gpu_cpu_and_disk_compute_the_same(tmp_path: Path, expected: torch.Tensor) -> None:
    folder = write_tiny_llama(tmp_path)
    for memory in ({0: 10**9}, {0: 70_000, "cpu": 10**9}, {0: 70_000, "cpu": 60_000}, {0: 1, "cpu": 10**9}):
        loaded = load_folder(folder, max_memory=memory)
        torch.testing.assert_close(logits(loaded), expected, atol=1e-4, rtol=0)


def test_loading_is_silent_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    """In a process of its own: warnings and bars of transformers and accelerate are off, and on again afterwards."""
    code = """
import pathlib, sys, tempfile
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
tempfile.tempdir = sys.argv[1]
for path in map(pathlib.Path, sys.argv[2:]):
    for memory in (None, {"cpu": 40_000}):
        loaded = load(OpenedModel.of(ModelFolder(path, "m")), ModelSpec(dtype="bfloat16"), max_memory=memory)
        print("disk" in loaded.device, len(list(pathlib.Path(sys.argv[1]).iterdir())))
from transformers.utils import logging
logging.get_logger("transformers.test").warning("as before")
sys.exit()
"""
    spare = tmp_path / "spare"
    spare.mkdir()
    folders = [write_tiny_llama(tmp_path / "bin", safe=False, dtype="float16"), write_meta_llama(tmp_path / "meta")]
    run = Forked(str(spare), *map(str, folders), code=code)
    assert run.wait() == 0, run.err
    assert run.out.decode().splitlines() == ["False 0", "True 1", "False 1", "True 2"]
    assert run.err == b"[transformers] as before\n"
    assert list(spare.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize("safe", [True, False])
def test_weights_of_an_unchanged_type_are_mapped_and_not_copied(tmp_path: Path, safe: bool) -> None:
    folder = write_tiny_llama(tmp_path, safe=safe, dtype="bfloat16")
    file = (folder / ("model.safetensors" if safe else "pytorch_model.bin")).resolve()
    loaded = load_folder(folder, dtype="bfloat16", device="cpu")
    regions = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    ranges = [tuple(int(number, 16) for number in region[0].split("-")) for region in regions]
    for name, parameter in loaded.model.named_parameters():
        assert any(begin <= parameter.data_ptr() < end for begin, end in ranges), name


def test_tied_biased_and_rescaled_llamas_load(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, layers=1, tie=True)
    change_config(folder, attention_bias=True, mlp_bias=True, rope_scaling=LLAMA3_ROPE, rope_theta=500000.0)
    state = load_file(folder / "model.safetensors")
    for name in [name for name in state if "proj" in name]:
        state[name.replace("weight", "bias")] = torch.ones(state[name].shape[0])
    save_file(state, folder / "model.safetensors")
    model = load_folder(folder).model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.model.layers[0].mlp.up_proj.bias.sum() == 48
    assert model.config.rope_parameters == LLAMA3_ROPE | {"rope_theta": 500000.0}


def test_generation_settings_that_come_with_a_checkpoint_do_not_reach_generate(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    unwanted = {"do_sample": True, "temperature": 0.6, "repetition_penalty": 9.0}
    (folder / "generation_config.json").write_text(json.dumps({**unwanted, "eos_token_id": [2, 7]}))
    settings = load_folder(folder).model.generation_config.to_diff_dict()
    settings.pop("transformers_version", None)
    assert settings == {"bos_token_id": 1, "eos_token_id": [2, 7], "pad_token_id": 0}


def test_loading_asks_nothing_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the network was used")

    folders = [WRITERS[kind](tmp_path / kind) for kind in ("safetensors", "bin", "meta in two files")]
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for folder in folders:
        load_folder(folder)
    assert not [thread.name for thread in threading.enumerate() if "auto_conversion" in thread.name]


def test_rotary_settings_that_transformers_refuses_are_an_error_in_config_json(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    for rope in (
        {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0},
        {"rope_type": "longrope", "original_max_position_embeddings": 1, "short_factor": [1] * 4, "long_factor": [1] * 4},
    ):
        with pytest.raises(ModelError, match=r"config\.json is rejected by Transformers [0-9.]+: ") as caught:
            load_folder(change_config(folder, rope_scaling=rope))
        assert "\n" not in caught.value.cause


def test_a_tokenizer_of_another_model_is_refused_before_loading(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"has {VOCAB} tokens, but the model's embedding has {VOCAB - 1} rows"):
        load_folder(write_tiny_llama(tmp_path, vocab=VOCAB - 1))


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("bfloat16", r"1 missing keys, such as model\.layers\.1\.mlp\.up_proj\.weight"),
        ("float32", r"does not contain tensor model\.layers\.1\.mlp\.up_proj\.weight"),  # Mapped before transformers is there.
    ],
)
def test_weights_missing_for_transformers_are_an_error_even_if_headers_looked_right(
    tmp_path: Path, dtype: DtypeName, message: str
) -> None:
    """The second line of defence: past the check of names and shapes, transformers' own report still fails."""
    folder = write_tiny_llama(tmp_path)
    state = load_file(folder / "model.safetensors")
    opened = OpenedModel.of(ModelFolder(folder, "model"))
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load(opened, ModelSpec(dtype=dtype))


@pytest.mark.parametrize("safe", [True, False])
def test_a_flipped_bit_in_a_header_never_ends_in_a_traceback(tmp_path: Path, safe: bool) -> None:
    folder = write_tiny_llama(tmp_path, safe=safe, layers=1)
    file = folder / ("model.safetensors" if safe else "pytorch_model.bin")
    content = file.read_bytes()
    chance = random.Random(4)
    for _ in range(20):
        damaged = bytearray(content)
        damaged[chance.randrange(2000)] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        with contextlib.suppress(ModelError):
            assert logits(load_folder(folder)).shape == (1, 6, VOCAB)


def test_files_that_change_under_the_loader_are_explained(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "a")
    found = inspect(folder)
    safe, binary = folder / "model.safetensors", write_tiny_llama(tmp_path / "b", safe=False) / "pytorch_model.bin"
    for file in (safe, binary):
        file.write_bytes(file.read_bytes()[:-100])
    pickled = tmp_path / "pickled.bin"
    pickled.write_bytes(pickle.dumps(object(), protocol=2))
    for read, said in (
        (lambda: safe_open(safe, framework="pt"), "changed during reading"),
        (lambda: torch.load(binary, weights_only=True, mmap=True), "changed during reading"),
        (lambda: torch.load(pickled, weights_only=True), "changed during reading"),
        ((tmp_path / "gone").read_bytes, "cannot be read"),
    ):
        with pytest.raises(ModelError, match=said), explained(found, CPU, torch.float32):
            read()


def test_memory_that_is_not_there_is_explained_and_bugs_are_not(tmp_path: Path) -> None:
    found = inspect(write_tiny_llama(tmp_path))
    with pytest.raises(ModelError, match="too little memory") as caught, explained(found, CPU, torch.float32):
        torch.empty(1 << 50)
    assert "--dtype bfloat16" in caught.value.remedy
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), explained(found, CPU, torch.float32):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_an_adapter_beside_a_model_is_not_applied_where_peft_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import modeling_utils
    from transformers.integrations import peft

    folder = write_tiny_llama(tmp_path / "model")
    expected = logits(load_folder(folder))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing", "peft_type": "LORA"}')
    monkeypatch.setattr(peft, "is_peft_available", lambda: True)
    before = modeling_utils.maybe_load_adapters  # type: ignore[attr-defined]
    assert torch.equal(logits(load_folder(folder)), expected)
    assert modeling_utils.maybe_load_adapters is before  # type: ignore[attr-defined]
