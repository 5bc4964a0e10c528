"""The numbers that make a Llama, and the weights that follow from them."""

import math
from dataclasses import dataclass
from typing import Any

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
