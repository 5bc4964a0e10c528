"""What the lean forward pass works on: a Llama's numbers and its weights as functions, wherever they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from openllama_cli.generation.forward.linear import (
    DenseLinear,
    Fused,
    Linear,
    Linears,
    Separate,
    bfloat16_linear,
    float16_linear,
)
from openllama_cli.native.library import has_amx

# [n] positions → cosines and sines, [n, D] each, in the type of the activations.
Rotary = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer: its norms, [hidden], and its matrices; those that read the same input stand together."""

    attention_norm: torch.Tensor
    query_key_value: Linears
    output: Linear
    mlp_norm: torch.Tensor
    gate_up: Linears
    down: Linear


@dataclass(frozen=True)
class LlamaWeights:
    """A Llama whose weights lie on one device.

    dtype: of the activations between products. cache_dtype: of keys and values. exact_rows: fill up rows so that a row's
    bits do not depend on its neighbors (float32). vector_products: one row's products are faster with oneDNN off.
    method: of quantization, if any. scale: what attention scores are multiplied with. context: positions that the
    model was made for.
    """

    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    exact_rows: bool
    vector_products: bool
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


def of_model(model: Any, *, stacked: bool = False) -> LlamaWeights:
    """The weights of a transformers Llama, where they are. model: in eval mode; see `lean.suits`.

    stacked: put the matrices that read the same input into one, for one product; the model's own become parts of it, so that
    memory holds them once.
    """
    config = model.config
    on_cpu = model.device.type == "cpu"
    half = on_cpu and model.dtype == torch.float16
    narrow = on_cpu and model.dtype == torch.bfloat16
    # Activations of float16 weights on a CPU are float32 between products, and their keys and values bfloat16.
    dtype = torch.float32 if half else model.dtype

    def linear(module: Any) -> Linear:
        kind = DenseLinear if stacked else float16_linear if half else bfloat16_linear if narrow else DenseLinear
        return kind(module.weight, module.bias)

    def linears(*modules: Any) -> Linears:
        return _stack(modules) if stacked else Separate(*map(linear, modules))

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

    return LlamaWeights(
        device=model.device,
        dtype=dtype,
        cache_dtype=torch.bfloat16 if half else model.dtype,
        exact_rows=model.dtype == torch.float32,
        vector_products=narrow and not has_amx(),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=model.model.layers[0].self_attn.head_dim,
        scale=model.model.layers[0].self_attn.scaling,
        eps=config.rms_norm_eps,
        context=int(config.max_position_embeddings),
        rotary=partial(_model_rotary, model.model.rotary_emb, torch.empty(0, dtype=dtype, device=model.device)),
        embedding=model.model.embed_tokens.weight,
        layers=[layer(module) for module in model.model.layers],
        norm=model.model.norm.weight.to(dtype),
        head=linear(model.lm_head),
    )


def _stack(modules: Sequence[Any]) -> Fused:
    sizes = [module.weight.shape[0] for module in modules]
    joined: dict[str, torch.Tensor | None] = {"weight": None, "bias": None}
    for name in joined:
        if getattr(modules[0], name) is None:
            continue
        whole = joined[name] = torch.cat([getattr(module, name).data for module in modules])
        for module, part in zip(modules, whole.split(sizes), strict=True):
            getattr(module, name).data = part
    assert joined["weight"] is not None
    return Fused(DenseLinear(joined["weight"], joined["bias"]), sizes)


def _model_rotary(module: Any, like: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cosine, sine = module(like, positions[None])  # [1, n, D]
    return cosine[0], sine[0]
