"""`--quantize`: a checkpoint's matrices in 8 or 4 bits, for the lean forward pass on a CPU.

Every matrix of a decoder layer is quantized; matrices that read the same input are stacked. The output matrix takes 8 bits
with either method: it is 3 % of a 3B model, and its errors reach the logits directly. Embedding and norms stay as they are
stored. One layer is worked on at a time: memory holds the result and that layer.

    embedding, norm                     as stored
    layers.N.attention_norm, .mlp_norm  as stored
    layers.N.query_key_value.*, .output.*, .gate_up.*, .down.*, head.*
        int8: .weight int8 [out, in], .scale float32 [out]
        int4: .weight uint8 and .parameters bfloat16, see `rounding`
        .bias float32 [out], if the model has them
    rotary.frequencies, rotary.scaling  float32: of the rotary embedding, as transformers computes them
    rotary.long_frequencies             float32: longrope's for long texts
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.inspect import Checkpoint
from openllama_cli.models.checkpoint.rope import longrope_limit
from openllama_cli.models.checkpoint.stored import TensorInfo
from openllama_cli.models.checkpoint.tensors import TensorSource
from openllama_cli.models.loading.llama_config import llama_config
from openllama_cli.models.quantize import rounding
from openllama_cli.models.quantize.rounding import Int4Layout, NativeLayout
from openllama_cli.models.spec import QuantizeName

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


# Each stack of a layer's matrices, with their names in the checkpoint.
STACKS = {
    "query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_NORMS = {"attention_norm": "input_layernorm.weight", "mlp_norm": "post_attention_layernorm.weight"}


@dataclass
class QuantizedModel:
    """Quantized weights, ready for generation.

    get: a tensor by its name in the table above; each once, since memory is to hold it once.
    release: told the names of tensors that were copied elsewhere. dtype: of the activations.
    layout: of int4 weights.
    """

    method: QuantizeName
    checkpoint: Checkpoint
    dtype: "torch.dtype"
    get: "Callable[[str], torch.Tensor]"
    release: "Callable[[str], None]"
    layout: Int4Layout

    @property
    def native(self) -> bool:
        """Whether int4 weights are in the layout of olc's own kernels."""
        return isinstance(self.layout, NativeLayout)


def check_quantizable(checkpoint: Checkpoint, method: QuantizeName) -> None:
    """Raise ModelError for a model that the quantized forward pass does not know."""
    activation = checkpoint.config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(
            f"--quantize {method} does not support models with the activation {activation}", "leave out --quantize"
        )


def plan(checkpoint: Checkpoint, method: QuantizeName, layout: Int4Layout) -> dict[str, TensorInfo]:
    """The names, types and shapes of what `quantized` yields, in its order."""

    def matrix(name: str, method: QuantizeName, out: int, columns: int) -> dict[str, TensorInfo]:
        if method == "int4":
            return layout.plan(name, out, columns)
        return {f"{name}.scale": TensorInfo("float32", (out,)), f"{name}.weight": TensorInfo("int8", (out, columns))}

    shape = checkpoint.shape
    stored = checkpoint.tensors
    rows = shape.tensors()
    half_a_head = TensorInfo("float32", (shape.head_dim // 2,))
    found = {
        "rotary.frequencies": half_a_head,
        "rotary.scaling": TensorInfo("float32", (1,)),
        **({} if longrope_limit(checkpoint.config) is None else {"rotary.long_frequencies": half_a_head}),
        "embedding": stored["model.embed_tokens.weight"],
        "norm": stored["model.norm.weight"],
    }
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for name, part in _NORMS.items():
            found[f"layers.{layer}.{name}"] = stored[prefix + part]
        for name, parts in STACKS.items():
            shapes = [rows[f"{prefix}{part}.weight"] for part in parts]
            out = sum(size for size, _ in shapes)
            found |= matrix(f"layers.{layer}.{name}", method, out, shapes[0][1])
            if f"{prefix}{parts[0]}.bias" in rows:
                found[f"layers.{layer}.{name}.bias"] = TensorInfo("float32", (out,))
    return found | matrix("head", "int8", shape.vocab, shape.hidden)


def quantized(
    checkpoint: Checkpoint, method: QuantizeName, layout: Int4Layout, done: "Callable[[int], None]"
) -> "Iterator[tuple[str, torch.Tensor]]":
    """The quantized weights one after another, in the order of `plan`. done: told the stored bytes that were worked off.

    Raises what torch and safetensors raise for weights that cannot be read.
    """
    import torch

    source = TensorSource(checkpoint)

    def as_stored(name: str) -> "torch.Tensor":
        return source.get(name, getattr(torch, checkpoint.tensors[name].dtype))

    def matrix(name: str, parts: list[str], method: QuantizeName) -> "Iterator[tuple[str, torch.Tensor]]":
        # Stacked before they are rounded only where there are several: a copy of one layer's.
        tensors = [source.get(f"{part}.weight") for part in parts]
        weight = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        done(sum(checkpoint.tensors[f"{part}.weight"].nbytes for part in parts))
        del tensors
        if method == "int8":
            levels, scale = rounding.int8_rows(weight)
            yield f"{name}.scale", scale
        else:
            levels, parameters = rounding.int4_groups(weight, layout)
            yield f"{name}.parameters", parameters
        yield f"{name}.weight", levels

    yield from _rotary(checkpoint)
    for name, stored in (("embedding", "model.embed_tokens.weight"), ("norm", "model.norm.weight")):
        done(checkpoint.tensors[stored].nbytes)
        yield name, as_stored(stored)
    for layer in range(checkpoint.shape.layers):
        prefix = f"model.layers.{layer}."
        for name, part in _NORMS.items():
            yield f"layers.{layer}.{name}", as_stored(prefix + part)
        for name, parts in STACKS.items():
            yield from matrix(f"layers.{layer}.{name}", [prefix + part for part in parts], method)
            if f"{prefix}{parts[0]}.bias" in checkpoint.tensors:
                biases = [source.get(f"{prefix}{part}.bias").float() for part in parts]
                yield f"layers.{layer}.{name}.bias", torch.cat(biases)
    # As transformers does, an output matrix that is stored counts, though config.json says that it is the embedding.
    yield from matrix("head", ["lm_head" if "lm_head.weight" in checkpoint.tensors else "model.embed_tokens"], "int8")


def _rotary(checkpoint: Checkpoint) -> "Iterator[tuple[str, torch.Tensor]]":
    """The rotary embedding's frequencies, [head_dim / 2], and what its cosines and sines are multiplied with, [1]."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config, rotary = llama_config(checkpoint)
    module: Any = rotary
    yield "rotary.frequencies", module.inv_freq.float().clone()
    yield "rotary.scaling", torch.tensor([float(module.attention_scaling)])
    limit = longrope_limit(checkpoint.config)
    if limit is not None:
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=limit + 1)
        yield "rotary.long_frequencies", long.float()
