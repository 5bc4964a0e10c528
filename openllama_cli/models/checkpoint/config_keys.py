"""What olc does with each key of a config.json: the one table.

transformers' Llama, its cache and its loading read the keys below. `HONORED` are read by `config`; `WITHOUT_EFFECT` change no
logit; `_REFUSED` change what transformers computes in ways that olc's passes do not have, unless their value is harmless. Any
other key is one that no Llama code reads. A test runs transformers on a config that remembers what was asked of it, so that a
new key of a new version shows.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import WEIGHT_FILES, short

HONORED = frozenset(
    {
        *("model_type", "architectures", "auto_map", "quantization_config"),
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("vocab_size", "max_position_embeddings", "max_sequence_length", "hidden_act", "rms_norm_eps"),
        *("tie_word_embeddings", "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id"),
        *("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings", "partial_rotary_factor"),
    }
)
WITHOUT_EFFECT = frozenset(
    {
        # Of training.
        *("initializer_range", "attention_dropout", "gradient_checkpointing", "problem_type", "id2label", "label2id"),
        "num_labels",
        # How a pass is computed, or what it returns beside logits. pretraining_tp only ever split sums.
        *("use_cache", "pretraining_tp", "chunk_size_feed_forward", "attn_implementation", "_attn_implementation"),
        *("experts_implementation", "_experts_implementation", "fusion_config", "return_dict", "output_hidden_states"),
        *("output_attentions", "tie_last_hidden_states"),
        # A type in memory is chosen with --dtype, from the one that is stored; padding is not run.
        *("dtype", "torch_dtype", "pad_token_id"),
        *("transformers_version", "_name_or_path", "name_or_path", "_commit_hash"),
        # Of other models, asked of all.
        "mtp_layer_types",
        *("vision_aspect_ratio", "vision_feature_layer", "vision_feature_select_strategy"),
    }
)


def _window(value: Any, raw: Mapping[str, Any]) -> bool:
    context = raw.get("max_position_embeddings", 2048)
    return value is None or (type(value) is int and type(context) is int and value >= context)


def _absent(value: Any, raw: Mapping[str, Any]) -> bool:
    return not value


def _own_weights(value: Any, raw: Mapping[str, Any]) -> bool:
    return value is None or value in [name + end for name in WEIGHT_FILES.values() for end in ("", ".index.json")]


# Key → whether a value changes nothing. (Of a Llama, transformers' cache drops keys beyond a window.)
_REFUSED: dict[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "sliding_window": _window,
    "attention_chunk_size": _window,
    "layer_types": lambda value, raw: value is None or (isinstance(value, list) and set(map(str, value)) <= {"full_attention"}),
    "kv_sharing_modes": lambda value, raw: not value or (isinstance(value, list) and "reuse" not in value),
    "per_layer_config": _absent,
    "is_causal": lambda value, raw: value is None or value is True,
    "is_encoder_decoder": _absent,
    "transformers_weights": _own_weights,
    **dict.fromkeys(("text_config", "decoder", "generator", "text_encoder"), _absent),
}
REFUSED = frozenset(_REFUSED)


def refuse_keys(file: Path, raw: Mapping[str, Any]) -> None:
    """Raise ModelError for the first key of a config.json that asks for what olc does not compute."""
    for key in sorted(raw.keys() & REFUSED):
        if not _REFUSED[key](raw[key], raw):
            raise ModelError(
                f"{file} has {key} {short(raw[key])}, which olc does not compute",
                "use a Llama without it; see `olc models list`",
                code="unsupported_config",
            )
