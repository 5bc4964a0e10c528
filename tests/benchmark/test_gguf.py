"""GGUF files: what the gguf package and llama.cpp read of them is the model that olc wrote them of."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from openllama_cli.benchmark import shapes
from openllama_cli.benchmark.gguf import BITS, gguf_file
from openllama_cli.benchmark.job import Job
from openllama_cli.benchmark.shapes import SHAPES, list_random_models, random_model
from openllama_cli.errors import OlcError
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.checkpoint.tensors import TensorSource
from openllama_cli.models.spec import QuantizeName
from openllama_cli.system.progress import NullProgress

TINY = LlamaShape(64, 96, layers=2, heads=4, kv_heads=2, head_dim=16, vocab=32000, context=64)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setattr(shapes, "_DRAWN", 1 << 16)


def stored(folder: Path) -> dict[str, Any]:
    """The weights under llama.cpp's names, with q and k in its order, float32."""
    source, names = TensorSource(inspect(folder)), TINY.tensors()
    found = {}
    for name in names:
        for theirs, ours in (("q_proj", 4), ("k_proj", 2)):
            if theirs in name:
                rows = source.get(name).float().numpy()
                # llama.cpp's rotary embedding turns rows 2i and 2i + 1 of a head, Hugging Face's i and i + 8.
                order = [16 * head + place // 2 + 8 * (place % 2) for head in range(ours) for place in range(16)]
                found[name] = rows[order]
        found.setdefault(name, source.get(name).float().numpy())
    short = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }

    def named(name: str) -> str:
        for theirs, llama_cpp in sorted(short.items(), reverse=True):
            name = name.replace(theirs, llama_cpp)
        return name

    return {named(name): tensor for name, tensor in found.items()}


@pytest.mark.parametrize(
    ("dtype", "quantize", "kind"),
    [("float16", None, "F16"), ("bfloat16", None, "BF16"), ("float16", "int8", "Q8_0"), ("bfloat16", "int4", "Q4_0")],
)
def test_a_gguf_file_holds_the_weights_at_equal_bits(dtype: str, quantize: QuantizeName | None, kind: str) -> None:
    folder = random_model("tiny", dtype, NullProgress())
    file = gguf_file(folder, quantize, NullProgress())
    assert file == folder / f"{kind.lower()}.gguf"
    reader = gguf.GGUFReader(file)
    # The largest error of a weight, in units of the largest of its block of 32.
    allowed = {"F16": 0.0, "BF16": 0.0, "Q8_0": 0.51 / 127, "Q4_0": 1.01 / 8}[kind]
    expected = stored(folder)
    assert {tensor.name for tensor in reader.tensors} == set(expected)
    for tensor in reader.tensors:
        weights = expected[tensor.name]
        assert tensor.tensor_type.name == ("F32" if weights.ndim == 1 else kind)
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(weights.shape)
        blocks = np.abs(weights.reshape(-1, 32)).max(1, keepdims=True)
        # Scales are float16.
        assert (np.abs(found - weights).reshape(-1, 32) <= (allowed + 1e-3 * (allowed > 0)) * blocks).all(), tensor.name
    assert file.stat().st_size == pytest.approx(TINY.parameters() * BITS[kind] / 8, rel=0.01)
    said = {"llama.block_count": 2, "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 16}
    assert {name: reader.get_field(name).contents() for name in said} == said  # type: ignore[union-attr]


def test_a_gguf_file_is_written_once_and_listed_with_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = random_model("tiny", "float16", NullProgress())
    before = list_random_models()[0].bytes
    file = gguf_file(folder, "int8", NullProgress())
    monkeypatch.setattr("openllama_cli.benchmark.gguf._write", lambda *_: pytest.fail("written again"))
    assert gguf_file(folder, "int8", NullProgress()) == file
    assert list_random_models()[0].bytes == before + file.stat().st_size
    assert inspect(folder).dtype == "float16", "it is still the model that it was"


def test_a_full_disk_leaves_no_part_of_a_gguf_file(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = random_model("tiny", "float16", NullProgress())

    def full(self: Any, tensor: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(OlcError, match=r"cannot write .*f16\.gguf .*No space left") as caught:
        gguf_file(folder, None, NullProgress())
    assert caught.value.code == "disk"
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]


def test_llama_cpp_computes_what_transformers_does() -> None:
    """Logits after several tokens of ragged rows, so that the order of rotary rows and of heads shows."""
    pytest.importorskip("llama_cpp", reason="compiling it takes 10 minutes")
    import torch
    from transformers import LlamaForCausalLM

    from openllama_cli.benchmark.llama_cpp import Context

    folder = random_model("tiny", "float16", NullProgress())
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    context = Context(Job(str(gguf_file(folder, None, NullProgress())), "llama.cpp", "F16", "cpu", 8, 2, 3))
    prompts = [[1, 5, 9, 700], [1, 8, 3, 12, 4000, 77], [1, 31000, 2, 9, 10, 11, 12, 13]]
    for row, logits in zip(prompts, context.forward(prompts, [0, 0, 0]), strict=True):
        expected = model(torch.tensor([row])).logits[0, -1].detach().numpy()
        assert np.abs(logits - expected).max() < 2e-2 * np.abs(expected).max()
