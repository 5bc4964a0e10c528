"""A Llama in a GGUF file: its weights are those that the package gguf decodes, its numbers those of llama.cpp's conversion."""

import copy
import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.convert import convert
from openllama_cli.models.checkpoint.gguf import blocks
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.tensors import TensorSource
from openllama_cli.models.details import details
from openllama_cli.models.find import demo_folder, resolve
from openllama_cli.models.loading.llama_config import llama_config
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.quantize.rounding import NativeLayout
from openllama_cli.models.quantize.weights import quantized
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.forked import fork
from tests.support.models.gguf_files import write_gguf
from tests.support.models.tiny_models import LLAMA3_ROPE, greedy, load_llama, tiny_config, tiny_state_dict, write_tiny_llama

# Of 256 columns, as the blocks of most types have.
WIDE: dict[str, Any] = {"hidden": 256, "heads": 4, "kv_heads": 4, "layers": 1, "intermediate": 256}
NOT_DECODED = {"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "Q1_0"}
KINDS = [kind.name for kind in gguf.GGMLQuantizationType if kind.name not in NOT_DECODED]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_type_are_those_of_the_package(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_AT_ONCE", 4096)  # Several blocks of rows.
    file = write_gguf(tmp_path / "x.gguf", kinds={"attn_v": kind, "attn_q": kind}, **WIDE)
    stored = {one.name: one for one in gguf.GGUFReader(file).tensors}
    source, found = TensorSource(checkpoint := inspect(file)), "model.layers.0.self_attn.{}_proj.weight"
    for name, part in (("v", "attn_v"), ("q", "attn_q")):
        one = stored[f"blk.0.{part}.weight"]
        wanted = torch.from_numpy(gguf.quants.dequantize(one.data, one.tensor_type).copy()).view(256, 256)
        if name == "q":  # Rows 2i and 2i + 1 of a head become i and i + 32.
            wanted = wanted[[64 * head + 2 * pair + odd for head in range(4) for odd in (0, 1) for pair in range(32)]]
        assert torch.equal(source.get(found.format(name)).float(), wanted)
        for dtype in (torch.bfloat16, torch.float16):
            assert torch.equal(source.get(found.format(name), dtype), wanted.to(dtype))
    wanted_type = {"F32": "float32", "BF16": "bfloat16"}.get(kind, "float16")
    assert checkpoint.tensors[found.format("v")].dtype == wanted_type


def test_a_weight_beyond_float16_is_an_error(tmp_path: Path) -> None:
    state = tiny_state_dict(tiny_config(**WIDE))
    state["lm_head.weight"] *= 1e6
    source = TensorSource(inspect(write_gguf(tmp_path / "x.gguf", kind="Q8_0", state=state, **WIDE)))
    with pytest.raises(ModelError, match="beyond the range of float16") as caught:
        source.get("lm_head.weight", torch.float16)
    assert caught.value.code == "range"
    assert source.get("lm_head.weight", torch.bfloat16).isfinite().all()


def test_a_file_answers_as_the_folder_does(tmp_path: Path) -> None:
    folder, file = write_tiny_llama(tmp_path / "model", tie=True), write_gguf(tmp_path / "model.gguf", tie=True)
    made = [fork("complete", "the whale", "-m", str(model), "-n", "30", "--dtype", "float32") for model in (folder, file)]
    assert [one.code for one in made] == [0, 0], made[1].messages
    assert made[0].out == made[1].out
    info = details(resolve(str(file)))
    assert (info["format"], info["dtype"], info["tied_embeddings"]) == ("gguf", "float32", True)
    assert (info["tokenizer"]["kind"], info["bytes_on_disk"]) == ("sentencepiece bpe", file.stat().st_size)


def test_it_converts_to_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", kind="F16", seed=3)
    found = convert(file, tmp_path / "dst")
    assert (found.format, found.dtype) == ("safetensors", "float16")
    theirs, source = load_llama(tmp_path / "dst"), TensorSource(inspect(file))
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, source.get(name, torch.float32)), name
    assert theirs.generation_config.eos_token_id == 2
    ours = open_tokenizer(tmp_path / "dst")
    assert (ours.encode("  the whale"), ours.bos_id) == (open_tokenizer(file).encode("  the whale"), 1)
    assert json.loads((tmp_path / "dst/tokenizer_config.json").read_text())["add_bos_token"] is True


def test_quantized_weights_of_a_file_are_rounded_from_what_it_decodes_to(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", kind="Q8_0", **WIDE)
    checkpoint, counted = inspect(file), list[int]()
    made = dict(quantized(checkpoint, "int8", NativeLayout(), counted.append))
    weight = TensorSource(checkpoint).get("lm_head.weight")
    assert weight.dtype == torch.float32
    scale = weight.abs().amax(1) / 127
    torch.testing.assert_close(made["head.scale"], scale)
    assert torch.equal(made["head.weight"], (weight / scale[:, None]).round().to(torch.int8))
    assert made["embedding"].dtype == torch.float16
    assert sum(counted) < checkpoint.tensor_bytes, "norms of layers are not counted"


def llama3_factors(writer: gguf.GGUFWriter) -> None:
    """rope_freqs as llama.cpp's conversion computes it for Llama 3.1."""
    low, high = LLAMA3_ROPE["low_freq_factor"], LLAMA3_ROPE["high_freq_factor"]
    old, factor = LLAMA3_ROPE["original_max_position_embeddings"], LLAMA3_ROPE["factor"]
    factors = []
    for freq in 1.0 / 10000.0 ** (torch.arange(0, 8, 2, dtype=torch.float32) / 8):
        wavelength = 2 * math.pi / float(freq)
        smooth = min(1.0, max(0.0, (old / wavelength - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    writer.add_tensor("rope_freqs.weight", torch.tensor(factors).numpy())


def linear(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)


def yarn(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(32)


@pytest.mark.parametrize(
    ("change", "rope"),
    [
        (lambda writer: writer.add_rope_freq_base(500_000.0), {"rope_theta": 500_000.0}),
        (linear, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        # llama.cpp takes a factor without a type for a linear one, and a type without a factor for none.
        (
            lambda writer: writer.add_rope_scaling_factor(4.0),
            {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        (lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), {}),
        (yarn, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}),
        (llama3_factors, {"rope_scaling": LLAMA3_ROPE}),
    ],
)
def test_the_rotary_embedding_is_that_of_the_original(tmp_path: Path, change: Any, rope: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = tiny_config()
    config.pop("torch_dtype")
    theirs: Any = LlamaRotaryEmbedding(LlamaConfig(**copy.deepcopy({**config, **rope})))
    _, ours = llama_config(inspect(write_gguf(tmp_path / "x.gguf", change=change)))
    positions = torch.arange(100)[None]
    for found, wanted in zip(ours(torch.zeros(1), positions), theirs(torch.zeros(1), positions), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda writer: writer.add_value_length(16),
        lambda writer: writer.add_logit_scale(0.5),
        lambda writer: writer.add_rope_scaling_attn_factors(1.5),
    ],
)
def test_what_is_not_computed_is_named(tmp_path: Path, change: Any) -> None:
    with pytest.raises(ModelError) as caught:
        inspect(write_gguf(tmp_path / "x.gguf", change=change, layers=1))
    assert caught.value.code == "unsupported_config"


def test_llama_cpp_chooses_the_same_tokens(tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    demo = demo_folder()
    config = json.loads((demo / "config.json").read_text())
    file = write_gguf(
        tmp_path / "demo.gguf",
        kind="F16",
        tokenizer=(demo / "tokenizer.model").read_bytes(),
        state=load_file(demo / "model.safetensors"),
        config=config,
    )
    theirs = llama_cpp.Llama(str(file), n_ctx=256, verbose=False, n_threads=1)
    ours = load(OpenedModel.of(ModelFolder(file, "demo")), ModelSpec(dtype="float32", device="cpu"))
    for text in ("Q: What is the largest animal?\nA:", "Q: What is the capital of France?\nA:", "The blue whale"):
        ids = ours.tokenizer.encode(text)
        assert theirs.tokenize(text.encode(), add_bos=True, special=False) == ids
        theirs.reset()
        found = list(islice(theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0), 100))
        assert found == greedy(ours.model, ids, 100)
