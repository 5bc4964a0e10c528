"""What the lean forward pass runs on: a Llama's sizes and its weights as functions, from transformers or quantized."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from openllama_cli.errors import OlcError
from openllama_cli.generation.forward.linear import (
    DenseLinear,
    Fused,
    Linear,
    Linears,
    Separate,
    bfloat16_linear,
    float16_linear,
)
from openllama_cli.generation.forward.quantized_linear import (
    Int4Linear,
    NativeInt4Linear,
    OnednnInt8Linear,
    int4_works,
    int8_kind,
)
from openllama_cli.generation.forward.rotary import Rotary, rotary_of
from openllama_cli.models.checkpoint.rope import longrope_limit
from openllama_cli.models.loading.load import LoadedModel
from openllama_cli.models.quantize.weights import QuantizedModel
from openllama_cli.native.library import has_amx

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer: its norms, [hidden], and its linear layers; those with the same input are grouped."""

    attention_norm: torch.Tensor
    query_key_value: Linears
    output: Linear
    mlp_norm: torch.Tensor
    gate_up: Linears
    down: Linear


@dataclass(frozen=True)
class LlamaWeights:
    """A Llama whose weights are on one device.

    dtype: of the activations. cache_dtype: of keys and values. batch_invariant: pad the batch so that a row's bits do not
    depend on the other rows (float32). gemv_without_onednn: with one row, linear layers are faster with oneDNN disabled.
    method: of quantization, if any. scale: of attention scores. context: positions that the model was trained for.
    """

    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    batch_invariant: bool
    gemv_without_onednn: bool
    heads: int
    kv_heads: int
    head_size: int
    scale: float
    eps: float
    context: int
    rotary: Rotary
    embedding: torch.Tensor
    layers: Sequence[LayerWeights]
    norm: torch.Tensor
    head: Linear
    method: str | None = None


def from_transformers(model: "LlamaForCausalLM", *, fused: bool = False) -> LlamaWeights:
    """The weights of a transformers Llama in eval mode, in place. See `lean.supports_lean`.

    fused: concatenate the matrices that read the same input, for one matmul. The model's own become views of the result, so
    that memory holds them once.
    """
    parts: Any = model  # Its submodules have attributes of their own, which nn.Module does not declare.
    config: Any = model.config
    on_cpu = model.device.type == "cpu"
    float16_on_cpu = on_cpu and model.dtype == torch.float16
    bfloat16_on_cpu = on_cpu and model.dtype == torch.bfloat16
    # Beside float16 weights on a CPU, activations are float32, and keys and values bfloat16.
    dtype = torch.float32 if float16_on_cpu else model.dtype

    def linear(module: Any) -> Linear:
        if fused or not (float16_on_cpu or bfloat16_on_cpu):
            return DenseLinear(module.weight, module.bias)
        return (float16_linear if float16_on_cpu else bfloat16_linear)(module.weight, module.bias)

    def linears(*modules: Any) -> Linears:
        return _fuse(modules) if fused else Separate(*map(linear, modules))

    def layer(module: Any) -> LayerWeights:
        attention, mlp = module.self_attn, module.mlp
        return LayerWeights(
            attention_norm=module.input_layernorm.weight.to(dtype),
            query_key_value=linears(attention.q_proj, attention.k_proj, attention.v_proj),
            output=linear(attention.o_proj),
            mlp_norm=module.post_attention_layernorm.weight.to(dtype),
            gate_up=linears(mlp.gate_proj, mlp.up_proj),
            down=linear(mlp.down_proj),
        )

    first_attention = parts.model.layers[0].self_attn
    return LlamaWeights(
        device=model.device,
        dtype=dtype,
        cache_dtype=torch.bfloat16 if float16_on_cpu else model.dtype,
        batch_invariant=model.dtype == torch.float32,
        gemv_without_onednn=bfloat16_on_cpu and not has_amx(),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_size=first_attention.head_dim,
        scale=first_attention.scaling,
        eps=config.rms_norm_eps,
        context=int(config.max_position_embeddings),
        rotary=rotary_of(parts.model.rotary_emb, dtype, model.device),
        embedding=parts.model.embed_tokens.weight,
        layers=[layer(module) for module in parts.model.layers],
        norm=parts.model.norm.weight.to(dtype),
        head=linear(parts.lm_head),
    )


def _fuse(modules: Sequence[Any]) -> Fused:
    sizes = [module.weight.shape[0] for module in modules]
    joined: dict[str, torch.Tensor | None] = {"weight": None, "bias": None}
    for name in joined:
        if getattr(modules[0], name) is None:
            continue
        tensor = joined[name] = torch.cat([getattr(module, name).data for module in modules])
        for module, part in zip(modules, tensor.split(sizes), strict=True):
            getattr(module, name).data = part
    assert joined["weight"] is not None
    return Fused(DenseLinear(joined["weight"], joined["bias"]), sizes)


@dataclass(frozen=True)
class ReadyModel(LoadedModel):
    """A loaded model whose quantized weights are ready for matmuls. They are made ready once per model."""

    weights: LlamaWeights = field(kw_only=True)


def make_ready(loaded: LoadedModel) -> LoadedModel:
    """A `ReadyModel` if the weights are quantized, else the model unchanged. Raises OlcError; see `from_quantized`."""
    if loaded.quantized is None or isinstance(loaded, ReadyModel):
        return loaded
    started = time.perf_counter()
    weights = from_quantized(loaded.quantized)
    values = vars(loaded) | {"load_seconds": loaded.load_seconds + time.perf_counter() - started}
    return ReadyModel(**values, weights=weights)


def from_quantized(quantized: QuantizedModel) -> LlamaWeights:
    """Quantized weights, ready for matmuls. Once per model: `get` may hand out a tensor only once.

    Packing int8 weights for oneDNN takes about a second per GB. Raises OlcError if this machine cannot run them.
    """
    method, shape, dtype = quantized.method, quantized.checkpoint.shape, quantized.dtype
    if method == "int4" and not (quantized.native or int4_works()):
        raise OlcError(
            f"--quantize int4: torch {torch.__version__} does not compute int4 matmuls correctly on this processor",
            "use --quantize int8",
            code="device",
        )
    tensor = quantized.get
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def linear(name: str, out: int, *, bias: bool, method: str = method) -> Linear:
        offset = tensor(f"{name}.bias").to(dtype) if bias else None
        if method == "int4":
            kind = NativeInt4Linear if quantized.native else Int4Linear
            return kind(tensor(f"{name}.weight"), tensor(f"{name}.parameters"), out, offset)
        made = int8_kind()(tensor(f"{name}.weight"), tensor(f"{name}.scale"), offset)
        if isinstance(made, OnednnInt8Linear):
            quantized.release(f"{name}.weight")
        return made

    def layer(number: int) -> LayerWeights:
        prefix = f"layers.{number}"
        heads, mlp = shape.attention_bias, shape.mlp_bias
        return LayerWeights(
            attention_norm=tensor(f"{prefix}.attention_norm").to(dtype),
            query_key_value=Fused(linear(f"{prefix}.query_key_value", queries + 2 * keys, bias=heads), (queries, keys, keys)),
            output=linear(f"{prefix}.output", shape.hidden, bias=heads),
            mlp_norm=tensor(f"{prefix}.mlp_norm").to(dtype),
            gate_up=Fused(linear(f"{prefix}.gate_up", 2 * shape.intermediate, bias=mlp), (shape.intermediate,) * 2),
            down=linear(f"{prefix}.down", shape.hidden, bias=mlp),
        )

    return LlamaWeights(
        device=torch.device("cpu"),
        dtype=dtype,
        cache_dtype=dtype,
        batch_invariant=dtype == torch.float32,
        gemv_without_onednn=False,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_size=shape.head_dim,
        scale=shape.head_dim**-0.5,
        eps=shape.rms_norm_eps,
        context=shape.context,
        rotary=_rotary(quantized),
        embedding=tensor("embedding"),
        layers=[layer(number) for number in range(shape.layers)],
        norm=tensor("norm").to(dtype),
        head=linear("head", shape.vocab, bias=False, method="int8"),
        method=method,
    )


def _rotary(quantized: QuantizedModel) -> Rotary:
    tensor, limit = quantized.get, longrope_limit(quantized.checkpoint.config)
    long = None if limit is None else tensor("rotary.long_frequencies")
    return Rotary(tensor("rotary.frequencies"), float(tensor("rotary.scaling")), quantized.dtype, long, limit)
