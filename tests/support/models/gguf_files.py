"""GGUF files of the tiny models, written by the package gguf as llama.cpp's conversion does it (convert_hf_to_gguf.py), and not
from olc's reader.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece

from tests.support.models.tiny_models import tiny_config, tiny_state_dict, tokenizer_model_bytes

Change = Callable[[gguf.GGUFWriter], object]


def write_gguf(
    file: Path,
    *,
    kind: str = "F32",
    seed: int = 0,
    tokenizer: bytes | Change | None = None,
    state: dict[str, Any] | None = None,
    change: Change | None = None,
    kinds: dict[str, str] | None = None,
    architecture: str = "llama",
    config: dict[str, Any] | None = None,
    **shape: Any,
) -> Path:
    """Write the model of `write_tiny_llama(seed=seed, **shape)`, matrices of a type, and return the file.

    tokenizer: a SentencePiece model, or what adds another one. state: weights in place of the seeded ones. change: adds
    settings. kinds: types of single tensors, by a part of their llama.cpp name; norms are F32. config: in place of `shape`.
    """
    config = {"num_key_value_heads": (config or {}).get("num_attention_heads"), **(config or tiny_config(**shape))}
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    if change is not None:
        change(writer)
    if callable(tokenizer):
        tokenizer(writer)
    else:
        add_sentencepiece(writer, tokenizer or tokenizer_model_bytes())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in (state or tiny_state_dict(config, seed)).items():
        array = tensor.float().numpy()
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        if "q_proj" in name or "k_proj" in name:
            array = _permuted(array, config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
        chosen = next((one for part, one in (kinds or {}).items() if part in theirs), kind if array.ndim > 1 else "F32")
        number = gguf.GGMLQuantizationType[chosen]
        data = array if chosen == "F32" else _quantized(np.ascontiguousarray(array), number)
        writer.add_tensor(theirs, data, raw_dtype=None if chosen in ("F32", "F16") else number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _quantized(array: "np.ndarray[Any, Any]", kind: gguf.GGMLQuantizationType) -> "np.ndarray[Any, Any]":
    """Of types that the package only decodes, blocks of random bytes: small ones, since scales must not be infinite."""
    try:
        return gguf.quants.quantize(array, kind)
    except NotImplementedError:
        per_block, size = gguf.GGML_QUANT_SIZES[kind]
        shape = (*array.shape[:-1], array.shape[-1] // per_block * size)
        return np.random.default_rng(kind).integers(0, 0x3A, shape, dtype=np.uint8)


def _permuted(weights: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """`LlamaModel.permute` of llama.cpp's conversion."""
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def add_sentencepiece(writer: gguf.GGUFWriter, model: bytes, **settings: Any) -> None:
    """As `_set_vocab_sentencepiece` of llama.cpp's conversion."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    pieces = range(processor.get_piece_size())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([processor.id_to_piece(piece).encode() for piece in pieces])
    writer.add_token_scores([processor.get_score(piece) for piece in pieces])
    writer.add_token_types([_type(processor, piece) for piece in pieces])
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(processor.eos_id())
    writer.add_unk_token_id(processor.unk_id())
    for name, value in settings.items():
        getattr(writer, f"add_{name}")(value)


def _type(processor: Any, piece: int) -> int:
    if processor.is_unknown(piece):
        return int(gguf.TokenType.UNKNOWN)
    if processor.is_control(piece):
        return int(gguf.TokenType.CONTROL)
    if processor.is_unused(piece):
        return int(gguf.TokenType.UNUSED)
    return int(gguf.TokenType.BYTE if processor.is_byte(piece) else gguf.TokenType.NORMAL)
