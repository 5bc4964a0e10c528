"""Weights under other names than a Llama's: what transformers takes them for, and what no one can load."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.convert import convert
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.tensors import TensorSource
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from tests.support.models.tiny_models import change_config, load_llama, tiny_config, tiny_state_dict, write_tiny_llama

IDS = torch.tensor([[1, 5, 9, 77]])


def renamed(folder: Path, rename: Callable[[str], str], *, safe: bool = True) -> Path:
    write_tiny_llama(folder, safe=safe, layers=1)
    state = {rename(name): tensor for name, tensor in tiny_state_dict(tiny_config(layers=1)).items()}
    if safe:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("rename", "safe"),
    [
        (lambda name: name.removeprefix("model."), True),
        (lambda name: name.removeprefix("model."), False),
        (lambda name: f"model.{name}", True),
        (lambda name: name.removeprefix("model.") if ".0." in name else name, True),
        (lambda name: f"model.{name}" if name == "lm_head.weight" else name, False),
    ],
)
def test_names_without_or_with_the_prefix_mean_what_transformers_takes_them_for(
    tmp_path: Path, rename: Callable[[str], str], safe: bool
) -> None:
    folder = renamed(tmp_path / "model", rename, safe=safe)
    loaded = load(OpenedModel.of(ModelFolder(folder, "model")), ModelSpec(dtype="float32", device="cpu"))
    assert torch.equal(loaded.model(IDS).logits, load_llama(folder)(IDS).logits)
    source = TensorSource(loaded.checkpoint)
    assert all(torch.equal(source.get(name), weight) for name, weight in tiny_state_dict(tiny_config(layers=1)).items())
    if not safe:
        assert convert(folder, tmp_path / "converted").plain


@pytest.mark.parametrize("architecture", ["LLaMAForCausalLM", "LlamaModel", None])
def test_who_saved_a_llama_does_not_matter(tmp_path: Path, architecture: str | None) -> None:
    folder = write_tiny_llama(tmp_path)
    assert inspect(change_config(folder, architectures=architecture and [architecture])).plain


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("module.", "DataParallel"),
        ("_orig_mod.", "torch.compile"),
        ("base_model.model.", "PEFT"),
        ("language_model.", "a Llama's do not have"),
    ],
)
def test_names_that_a_wrapping_program_changed_are_named(tmp_path: Path, prefix: str, said: str) -> None:
    folder = renamed(tmp_path, lambda name: prefix + name)
    with pytest.raises(ModelError, match=said) as caught:
        inspect(folder)
    assert repr(prefix) in caught.value.cause


def test_a_llama_model_without_its_head_is_named(tmp_path: Path) -> None:
    folder = renamed(tmp_path, lambda name: name.removeprefix("model."))
    state = tiny_state_dict(tiny_config(layers=1))
    save_file(
        {name.removeprefix("model."): state[name] for name in state if name != "lm_head.weight"}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match="LlamaModel without a head"):
        inspect(folder)


@pytest.mark.parametrize("safe", [True, False])
def test_an_index_without_metadata_is_read(tmp_path: Path, safe: bool) -> None:
    sound = write_tiny_llama(tmp_path / "sound", layers=1, safe=safe, sharded=True)
    expected = load_llama(sound)(IDS).logits
    index = next(sound.glob("*.index.json"))
    weight_map = json.loads(index.read_text())["weight_map"]
    for content in (
        json.dumps({"weight_map": weight_map}).encode(),
        json.dumps({"metadata": None, "weight_map": weight_map}).encode(),
        b"\xef\xbb\xbf" + index.read_bytes(),
    ):
        index.write_bytes(content)
        loaded = load(OpenedModel.of(ModelFolder(sound, "model")), ModelSpec(dtype="float32", device="cpu"))
        assert torch.equal(loaded.model(IDS).logits, expected)


def test_what_lies_complete_beside_weights_that_are_not_is_named(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, sharded=True, layers=1)
    write_tiny_llama(tmp_path, safe=False, layers=1)
    (folder / "model-00002-of-00002.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    with pytest.raises(ModelError, match=r"pytorch_model\.bin beside it holds all weights") as caught:
        inspect(folder)
    assert f"mv {index} {index}.old" in caught.value.remedy
    index.rename(f"{index}.old")
    for shard in folder.glob("model-*"):
        shard.unlink()
    assert inspect(folder).format == "bin"


def test_complete_weights_beside_shards_without_an_index_are_not_moved_away(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, safe=False, layers=1)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin beside it holds all weights") as caught:
        inspect(folder)
    assert "mv " not in caught.value.remedy


def test_complete_weights_beside_a_broken_symlink_are_not_moved_away(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, safe=False, layers=1)
    link = folder / "model.safetensors"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin beside it holds all weights") as caught:
        inspect(folder)
    assert f"mv {link} {link}.old" in caught.value.remedy
