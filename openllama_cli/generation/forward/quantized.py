"""The lean forward pass's weights out of quantized tensors (see `models.quantize` for their names)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from openllama_cli.errors import OlcError
from openllama_cli.generation.forward.int4 import Int4Linear, NativeInt4Linear, int4_works
from openllama_cli.generation.forward.int8 import int8_linear
from openllama_cli.generation.forward.linear import Fused, Linear
from openllama_cli.generation.forward.weights import LayerWeights, LlamaWeights


class Quantized(Protocol):
    """The part of `models.quantize.QuantizedModel` that is needed here."""

    @property
    def method(self) -> str:
        """int8 or int4."""

    @property
    def checkpoint(self) -> Any:
        """Whose `shape` has the model's numbers."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""

    @property
    def get(self) -> Callable[[str], torch.Tensor]:
        """Hands a tensor over."""

    @property
    def release(self) -> Callable[[str], None]:
        """Told of tensors that were copied."""

    @property
    def native(self) -> bool:
        """Whether int4 weights are in the layout of olc's own kernels."""

    prepared: Any


def prepare(quantized: Quantized) -> LlamaWeights:
    """Make the weights ready for products, once: oneDNN's int8 layout takes about a second for each GB.

    Raises OlcError where this machine cannot multiply with them.
    """
    if quantized.prepared is None:
        quantized.prepared = _prepare(quantized)
    prepared: LlamaWeights = quantized.prepared
    return prepared


def _prepare(quantized: Quantized) -> LlamaWeights:
    method, shape, dtype = quantized.method, quantized.checkpoint.shape, quantized.dtype
    if method == "int4" and not (quantized.native or int4_works()):
        raise OlcError(
            f"--quantize int4: torch {torch.__version__} does not multiply int4 weights rightly on this processor",
            "use --quantize int8",
            code="device",
        )
    take = quantized.get
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def linear(name: str, out: int, *, bias: bool, method: str = method) -> Linear:
        offset = take(f"{name}.bias").to(dtype) if bias else None
        if method == "int4":
            kind = NativeInt4Linear if quantized.native else Int4Linear
            return kind(take(f"{name}.weight"), take(f"{name}.parameters"), out, offset)
        made = int8_linear(take(f"{name}.weight"), take(f"{name}.scale"), offset)
        if made.copied:
            quantized.release(f"{name}.weight")
        return made

    def layer(number: int) -> LayerWeights:
        prefix = f"layers.{number}"
        heads, mlp = shape.attention_bias, shape.mlp_bias
        return LayerWeights(
            attention_norm=take(f"{prefix}.attention_norm").to(dtype),
            query_key_value=Fused(linear(f"{prefix}.query_key_value", queries + 2 * keys, bias=heads), (queries, keys, keys)),
            output=linear(f"{prefix}.output", shape.hidden, bias=heads),
            mlp_norm=take(f"{prefix}.mlp_norm").to(dtype),
            gate_up=Fused(linear(f"{prefix}.gate_up", 2 * shape.intermediate, bias=mlp), (shape.intermediate,) * 2),
            down=linear(f"{prefix}.down", shape.hidden, bias=mlp),
        )

    return LlamaWeights(
        device=torch.device("cpu"),
        dtype=dtype,
        cache_dtype=dtype,
        exact_rows=dtype == torch.float32,
        vector_products=False,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_size=shape.head_dim,
        scale=shape.head_dim**-0.5,
        eps=shape.rms_norm_eps,
        context=shape.context,
        rotary=partial(_rotary, take("rotary.frequencies"), float(take("rotary.scaling")), dtype),
        embedding=take("embedding"),
        layers=[layer(number) for number in range(shape.layers)],
        norm=take("norm").to(dtype),
        head=linear("head", shape.vocab, bias=False, method="int8"),
        method=method,
    )


def _rotary(
    frequencies: torch.Tensor, scaling: float, dtype: torch.dtype, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As transformers' LlamaRotaryEmbedding: [n] positions → cosines and sines [n, D], computed in float32."""
    angles = positions[:, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return (angles.cos() * scaling).to(dtype), (angles.sin() * scaling).to(dtype)
