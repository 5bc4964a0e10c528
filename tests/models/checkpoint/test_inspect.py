"""`inspect`: what it says of sound folders, and the two lines it says of all others."""

import json
import pickle
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.config import read_config
from openllama_cli.models.checkpoint.inspect import check_vocabulary, inspect
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.forked import Forked
from tests.support.models.tiny_models import (
    LLAMA3_ROPE,
    SHAPE,
    VOCAB,
    WRITERS,
    change_config,
    tiny_config,
    tiny_state_dict,
    write_meta_llama,
    write_tiny_llama,
)


def refusal(folder: Path) -> str:
    """What `inspect` says of a folder that it refuses: two lines."""
    with pytest.raises(ModelError) as caught:
        inspect(folder)
    assert "\n" not in caught.value.cause
    assert "\n" not in caught.value.remedy
    assert caught.value.remedy
    return f"{caught.value.cause}\n{caught.value.remedy}"


@pytest.mark.parametrize("kind", WRITERS)
def test_inspect_finds_shape_type_and_size_of_every_format(tmp_path: Path, kind: str) -> None:
    folder = WRITERS[kind](tmp_path / "model")
    if kind == "safetensors":
        write_meta_llama(folder, layers=1)  # Beside them, and not taken.
    found = inspect(folder)
    state = tiny_state_dict(tiny_config(**SHAPE))
    assert found.format == kind.split()[-1] if "meta" not in kind else found.format == "meta"
    assert {name: info.shape for name, info in found.tensors.items()} == {n: tuple(t.shape) for n, t in state.items()}
    assert found.shape.parameters() == sum(tensor.numel() for tensor in state.values())
    assert found.dtype == "float32"
    assert found.bytes == sum(file.stat().st_size for file in found.files)
    assert len(found.files) == (2 if "sharded" in kind or "two" in kind else 1)
    assert (found.shape.hidden, found.shape.layers, found.shape.heads, found.shape.kv_heads) == (32, 2, 4, 2)
    assert (found.shape.vocab, found.shape.intermediate, found.shape.head_dim) == (VOCAB, 48, 8)
    assert found.tokenizer_files[:1] == (() if kind == "gguf" else (folder / "tokenizer.model",))
    if kind == "safetensors":
        (folder / "model.safetensors").unlink()
        assert inspect(folder).format == "meta"


@pytest.mark.parametrize(("dtype", "safe"), [("float16", True), ("bfloat16", True), ("float16", False), ("bfloat16", False)])
def test_inspect_reads_the_stored_type_and_not_the_one_config_json_claims(tmp_path: Path, dtype: str, safe: bool) -> None:
    folder = write_tiny_llama(tmp_path, dtype=dtype, safe=safe)
    assert inspect(change_config(folder, torch_dtype="float64")).dtype == dtype


def test_tied_outputs_old_buffers_and_biases_are_known(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, layers=1, tie=True)
    found = inspect(folder)
    assert found.shape.tie
    assert "lm_head.weight" not in found.tensors
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()  # It may be stored all the same.
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, folder / "model.safetensors")
    assert inspect(folder).shape == found.shape
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" not in inspect(folder).tensors
    change_config(folder, attention_bias=True, mlp_bias=True)
    assert "is missing 7 of the" in refusal(folder)
    for name in [name for name in state if "proj" in name]:
        state[name.replace("weight", "bias")] = torch.zeros(state[name].shape[0])
    save_file(state, folder / "model.safetensors")
    assert inspect(folder).shape.attention_bias


def test_rotary_settings_are_kept_and_only_known_keys_of_config_json_are_handed_on(tmp_path: Path) -> None:
    hostile = {"attn_implementation": "someone/kernels", "fusion_config": {}, "num_experts": 8}
    folder = change_config(write_tiny_llama(tmp_path), **hostile)
    for rope in (
        {"rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    ):
        config = inspect(change_config(folder, **rope)).config
        assert {key: config[key] for key in rope} == rope
        assert not hostile.keys() & config.keys()


def test_refuses_what_is_no_folder_of_a_model(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing")
    assert "the folder is empty" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert "it contains notes.txt" in refusal(tmp_path)
    model = write_tiny_llama(tmp_path / "model")
    assert f"did you mean {model}?" in refusal(tmp_path)
    assert f"give the folder that contains it: {model}" in refusal(model / "model.safetensors")
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    assert "is truncated" in refusal(gguf)
    assert f"give a GGUF file itself, such as {gguf}" in refusal(tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert f"-m MODEL --adapter {adapter}" in refusal(adapter)


@pytest.mark.parametrize(
    ("kind", "file", "said"),
    [
        ("safetensors", "config.json", "has weights but no config.json"),
        ("safetensors", "tokenizer.model", "tokenizer"),
        ("safetensors", "model.safetensors", "has a config.json but no weights"),
        ("meta", "params.json", "no params.json"),
        ("meta in four files", "consolidated.02.pth", "no consolidated.02.pth"),
        ("meta", "consolidated.00.pth", "no consolidated.00.pth"),
    ],
)
def test_refuses_a_folder_with_a_part_missing(tmp_path: Path, kind: str, file: str, said: str) -> None:
    folder = write_meta_llama(tmp_path, shards=4) if "four" in kind else WRITERS[kind](tmp_path)
    (folder / file).unlink()
    assert said in refusal(folder)


def test_a_link_into_the_hub_cache_whose_file_is_gone_is_named(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "models--openlm-research--open_llama_3b" / "snapshots" / "abc")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    said = refusal(folder)
    assert "is a broken symlink" in said
    assert "olc models rm --yes openlm-research/open_llama_3b && olc models pull openlm-research/open_llama_3b" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt2"}, "a gpt2 model, not a Llama"),
        ({"model_type": None}, "has no model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not a LlamaForCausalLM"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "would run code"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "already quantized (gptq)"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers '2'"),
        ({"num_hidden_layers": True}, "num_hidden_layers True"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"num_attention_heads": 5}, "5 heads, which do not divide the hidden size 32"),
        ({"num_attention_heads": 32}, "head size 1"),
        ({"num_key_value_heads": 3}, "3 key/value heads"),
        ({"vocab_size": -1}, "vocab_size -1"),
        ({"max_position_embeddings": 0}, "max_position_embeddings 0"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps -1e-06"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps nan"),
        ({"rope_theta": "big"}, "rope_theta 'big'"),
        ({"rope_scaling": {"type": "mystery"}}, "rope_scaling 'mystery'"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor 0"),
        ({"rope_scaling": [2.0]}, "rope_scaling [2.0]"),
        ({"tie_word_embeddings": "yes"}, "neither true nor false"),
        ({"hidden_act": "banana"}, "activation 'banana'"),
        ({"hidden_size": 64}, "64"),
        ({"vocab_size": VOCAB + 8}, f"{VOCAB} × 32, but config.json implies {VOCAB + 8} × 32"),
    ],
)
def test_refuses_a_config_json_that_makes_no_llama(
    tmp_path: Path, tiny_model: Path, changes: dict[str, Any], said: str
) -> None:
    for name in ("model.safetensors", "tokenizer.model"):
        (tmp_path / name).symlink_to(tiny_model / name)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    assert said in refusal(change_config(tmp_path, **changes))


def test_refuses_a_config_json_that_is_not_a_json_object(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '"llama"', "\ufeff{", "[" * 100_000, "\x00\x01"):
        (tmp_path / "config.json").write_text(text)
        assert "config.json" in refusal(tmp_path)


def test_refuses_missing_left_over_and_other_weights(tmp_path: Path) -> None:
    state = tiny_state_dict(tiny_config())
    folder = write_tiny_llama(tmp_path)
    file = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in state.items() if "layers.1.mlp" not in name}, file)
    assert "is missing 3 of the 21 weights that config.json describes: model.layers.1.mlp.down_proj.weight" in refusal(folder)
    save_file({**state, "model.layers.0.lora_A": torch.ones(2)}, file)
    assert "1 weights that config.json does not describe: model.layers.0.lora_A" in refusal(folder)
    save_file({**state, "lm_head.weight": torch.ones(VOCAB, 16)}, file)
    assert f"lm_head.weight has shape {VOCAB} × 16, but config.json implies {VOCAB} × 32" in refusal(folder)
    save_file({**state, "lm_head.weight": torch.ones(VOCAB, 32, dtype=torch.int8)}, file)
    assert "stored as int8" in refusal(folder)
    save_file({**state, "model.layers.0.mlp.up_proj.qweight": torch.ones(2, dtype=torch.int32)}, file)
    assert "contains quantized weights" in refusal(folder)


def test_refuses_shards_that_do_not_match_their_index(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, sharded=True)
    index = folder / "model.safetensors.index.json"
    sound = json.loads(index.read_text())
    second = folder / "model-00002-of-00002.safetensors"

    def with_map(**changes: str) -> str:
        index.write_text(json.dumps({"weight_map": sound["weight_map"] | changes}))
        return refusal(folder)

    assert "names a file outside its folder: ../x.safetensors" in with_map(**{"lm_head.weight": "../x.safetensors"})
    assert "x.safetensors" in with_map(**{"lm_head.weight": "x.safetensors"})
    assert "lists extra, which none of its files contains" in with_map(extra=second.name)
    index.write_text("{}")
    assert "has no weight_map" in refusal(folder)
    index.unlink()
    assert "no model.safetensors.index.json" in refusal(folder)
    index.write_text(json.dumps(sound))
    second.rename(tmp_path / "away")
    assert "lists 2 files, 1 of them missing in" in refusal(folder)
    second.write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    assert "which another shard contains too" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_refuses_files_that_are_not_weights(tmp_path: Path, name: str) -> None:
    folder = write_tiny_llama(tmp_path)
    (folder / "model.safetensors").unlink()
    for content, said in (
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 6853038093\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>" * 9, "is a web page"),
        (b"\x00" * 64, "damaged" if name == "model.safetensors" else "not a PyTorch file"),
        (b"GGUF" * 20, "is a GGUF file of llama.cpp"),
    ):
        (folder / name).write_bytes(content)
        assert said in refusal(folder)


def test_a_pickle_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "owned",))

    folder = write_tiny_llama(tmp_path, safe=False)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**state, "lm_head.weight": Payload()}, folder / "pytorch_model.bin")
    assert "it may run code" in refusal(folder)
    assert not (tmp_path / "owned").exists()


def test_pytorch_files_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, safe=False)
    file = folder / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save({"model": state, "epoch": 3}, file)
    assert "does not hold a plain dict of tensors" in refusal(folder)
    with pytest.raises(ModelError) as refused:
        inspect(folder)
    move, _, convert = refused.value.remedy.partition("entry model: ")[2].partition(" && ")
    subprocess.run(move, shell=True, check=True)
    python, option, code = shlex.split(convert)
    assert (python, option) == ("python3", "-c")
    run = Forked(code=f"{code}\nsys.exit()")
    assert run.wait() == 0, run.err.decode()
    assert inspect(folder).shape.layers > 0
    assert torch.load(folder / "pytorch_model.bin.whole", weights_only=True)["epoch"] == 3
    torch.save(state, file, _use_new_zipfile_serialization=False)
    assert "format of torch before 1.6" in refusal(folder)
    file.write_bytes(pickle.dumps({"a": 1}))
    assert "is not a PyTorch file" in refusal(folder)


def test_a_larger_embedding_and_names_for_ids_beyond_it_are_accepted(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "a", vocab=VOCAB + 24)
    check_vocabulary(open_tokenizer(folder), inspect(folder))
    folder = write_tiny_llama(tmp_path / "b")
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": VOCAB}))
    check_vocabulary(open_tokenizer(folder), inspect(folder))


def test_the_config_of_a_shape_describes_it(tmp_path: Path) -> None:
    # Every number another one, so that none can stand in for its neighbor, and none a default.
    shape = LlamaShape(24, 40, 3, 6, 2, 4, 100, 77, rms_norm_eps=2e-5, tie=True, attention_bias=True, mlp_bias=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | shape.config()))
    config, found = read_config(tmp_path)
    assert found == shape
    assert config.items() >= shape.config().items()
    meta = inspect(write_meta_llama(tmp_path / "model"))
    assert meta.config.items() >= meta.shape.config().items()


def test_names_far_beyond_the_embedding_are_accepted(tmp_path: Path) -> None:
    (write_tiny_llama(tmp_path) / "added_tokens.json").write_text(json.dumps({"[PAD]": VOCAB + 1}))
    check_vocabulary(open_tokenizer(tmp_path), inspect(tmp_path))


def test_stray_meta_files_beside_a_complete_model_do_not_matter(tmp_path: Path) -> None:
    for name in ("consolidated.01.pth", "consolidated.01.pt"):
        (write_tiny_llama(tmp_path) / name).write_bytes(b"")
    assert inspect(tmp_path).format == "safetensors"
