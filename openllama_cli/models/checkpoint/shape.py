"""The numbers that make a Llama, the weights that follow from them, and where a weight is in its files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Bytes of one number.
ITEM_SIZE = {
    **dict.fromkeys(("float64", "int64", "uint64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool", "float8_e4m3fn", "float8_e5m2"), 1),
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor. dtype: torch's name for it, such as "float16"."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_SIZE[self.dtype]


@dataclass(frozen=True)
class StoredTensor:
    """Where one weight is stored. name: in the files. files: one, or all that hold a slice of it, in the order of the slices.

    dim: the dimension it is cut along, None if it is not. heads: how many rotary heads its rows make up where they are in
    Meta's order, else 0.
    """

    name: str
    files: tuple[Path, ...]
    dim: int | None = None
    heads: int = 0


@dataclass(frozen=True)
class StoredWeights:
    """What the headers of a folder's weight files say, by Hugging Face name; tensors: as they are once slices are joined."""

    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo]
    layout: dict[str, StoredTensor]


@dataclass(frozen=True)
class LlamaShape:
    """The shape of one Llama checkpoint.

    hidden: width of the residual stream. intermediate: width inside the MLP. context: positions the model was trained on.
    kv_heads: key/value heads; fewer than heads is grouped-query attention. tie: the output matrix is the embedding.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rms_norm_eps: float = 1e-6
    tie: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every weight under its Hugging Face name, with its shape (rows, columns) or (size,). A tied output is left out."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (queries, self.hidden),
            "self_attn.k_proj.weight": (keys, self.hidden),
            "self_attn.v_proj.weight": (keys, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, queries),
            "mlp.gate_proj.weight": (self.intermediate, self.hidden),
            "mlp.up_proj.weight": (self.intermediate, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.intermediate),
            "input_layernorm.weight": (self.hidden,),
            "post_attention_layernorm.weight": (self.hidden,),
        }
        biased = ("self_attn.",) * self.attention_bias + ("mlp.",) * self.mlp_bias
        layer |= {name.replace(".weight", ".bias"): shape[:1] for name, shape in layer.items() if name.startswith(biased)}
        tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for number in range(self.layers):
            tensors |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
        tensors["model.norm.weight"] = (self.hidden,)
        if not self.tie:
            tensors["lm_head.weight"] = (self.vocab, self.hidden)
        return tensors

    def parameters(self) -> int:
        """How many numbers the weights hold; a tied output counts once."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    def cache_bytes(self, element_bytes: int) -> int:
        """Bytes of keys and values of one token, in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * element_bytes

    def config(self) -> dict[str, Any]:
        """Keyword arguments for transformers' LlamaConfig."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
        }
