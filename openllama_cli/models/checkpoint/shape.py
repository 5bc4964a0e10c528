"""The numbers that make a Llama, the weights that follow from them, and where a weight is in its files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# torch's name of a type, its bytes, and what .safetensors files and torch.save call it ("": that format has it not).
_TYPES = (
    ("float64", 8, "F64", "DoubleStorage"),
    ("float32", 4, "F32", "FloatStorage"),
    ("float16", 2, "F16", "HalfStorage"),
    ("bfloat16", 2, "BF16", "BFloat16Storage"),
    ("int64", 8, "I64", "LongStorage"),
    ("int32", 4, "I32", "IntStorage"),
    ("int16", 2, "I16", "ShortStorage"),
    ("int8", 1, "I8", "CharStorage"),
    ("uint64", 8, "U64", ""),
    ("uint32", 4, "U32", ""),
    ("uint16", 2, "U16", ""),
    ("uint8", 1, "U8", "ByteStorage"),
    ("bool", 1, "BOOL", "BoolStorage"),
    ("float8_e4m3fn", 1, "F8_E4M3", ""),
    ("float8_e5m2", 1, "F8_E5M2", ""),
)
ITEM_SIZE = {dtype: size for dtype, size, _, _ in _TYPES}
SAFETENSORS_CODES = {dtype: code for dtype, _, code, _ in _TYPES}
TORCH_STORAGES = {dtype: storage for dtype, _, _, storage in _TYPES if storage}

# transformers' names of a LlamaShape's fields, as config.json has them.
CONFIG_KEYS = {
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "tie": "tie_word_embeddings",
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
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
class StoredBytes:
    """A storage in a PyTorch file: where its bytes begin, how many there are, and their CRC-32 (0: none was written)."""

    offset: int
    count: int
    crc: int


@dataclass(frozen=True)
class StoredWeights:
    """What the headers of a folder's weight files say, by Hugging Face name; tensors: as they are once slices are joined.

    storages: of PyTorch files. plain: whether transformers finds the same files and names in the folder by itself.
    """

    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo]
    layout: dict[str, StoredTensor]
    storages: dict[Path, tuple[StoredBytes, ...]]
    plain: bool


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
        return {key: getattr(self, field) for field, key in CONFIG_KEYS.items()}
