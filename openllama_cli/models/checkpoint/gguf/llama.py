"""A GGUF file as a Llama: its settings as config.json would have them, and its tensors under their Hugging Face names.

llama.cpp's rotary embedding turns neighboring rows of a head, as Meta's does, so that rows of q and k come in Meta's order.
Numbers are float32 in a GGUF file: 1e-6 comes as 9.999999974752427e-07, and is read as the shortest one that is the same.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.config import check_config
from openllama_cli.models.checkpoint.gguf.header import GGUFTensor, parts, read_header
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.checkpoint.stored import StoredBlocks, StoredTensor, StoredWeights, TensorInfo
from openllama_cli.models.model_files import brief, damaged, is_there, short

# llama.cpp's names of the weights outside layers, and of those in blk.N.
_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
# What the angles of the rotary embedding are divided by: so llama.cpp stores Llama 3.1's.
_ROPE_FACTORS = "rope_freqs.weight"
# A buffer of old conversions, which is computed.
_COMPUTED = ".attn_rot_embd"
# Types that torch has too, by their names in the package gguf.
PLAIN_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# What all other types are decoded to where nobody asks for another one: their scales are float16, and bfloat16 has 3 bits less.
DECODED = "float16"
# Settings that change what is computed, and the values with which they do not.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "attention.causal": (True,),
    "attention.scale": (),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (1.0,),
    "residual_scale": (1.0,),
    "embedding_scale": (1.0,),
    "use_parallel_residual": (False,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0, 0.1),
}
_NAMES_OF_PARTS = "give the parts their names back: NAME-00001-of-00003.gguf and so on"

# The tensors of all parts, each with its file.
_Found = dict[str, tuple[Path, GGUFTensor]]


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Llama's weight: blk.3.attn_q.weight of model.layers.3.self_attn.q_proj.weight."""
    words, _, kind = name.rpartition(".")
    outside = {ours: theirs for theirs, ours in _OUTSIDE.items()}
    if words in outside:
        return f"{outside[words]}.{kind}"
    _, _, layer, part = words.split(".", 3)
    return f"blk.{layer}.{ {ours: theirs for theirs, ours in _IN_LAYER.items()}[part] }.{kind}"


def read_gguf(file: Path) -> tuple[dict[str, Any], LlamaShape, StoredWeights]:
    """The headers of a model's GGUF file, or of all its parts: the keyword arguments for transformers' LlamaConfig, the shape,
    the weights.

    file: any of the parts. Raises ModelError for what is no Llama, missing, damaged, or newer than the package gguf.
    """
    files = parts(file)
    for part in files:
        if not is_there(part):
            raise ModelError(
                f"{file.parent} has {file.name} but not {part.name}",
                f"copy the missing file beside it: the model is split over {len(files)} files",
            )
    headers = [read_header(part) for part in files]
    for number, header in enumerate(headers):
        said = header.settings.get("split.no", number)
        if said != number and len(files) > 1:
            raise ModelError(f"{files[number]} says that it is part {short(said)}, counted from 0", _NAMES_OF_PARTS)
    _refuse(files[0], headers[0].settings, len(files))
    found: _Found = {}
    for part, header in zip(files, headers, strict=True):
        for name, tensor in header.tensors.items():
            if name in found:
                raise damaged(part, f"contains {brief(name)}, which another part contains too")
            found[name] = part, tensor
    config, shape = _config(files[0], headers[0].settings, found)
    expected = shape.tensors()
    tensors: dict[str, TensorInfo] = {}
    layout: dict[str, StoredTensor] = {}
    for name, (part, tensor) in found.items():
        if name == _ROPE_FACTORS or _COMPUTED in name:
            continue
        if name in expected:  # Nobody knows in which order its rows are.
            raise damaged(part, f"contains {brief(name)}, Hugging Face's name of a weight in place of llama.cpp's")
        ours = _hugging_face_name(name)
        blocks = _blocks(part, name, tensor)
        heads = shape.heads if ".q_proj." in ours else shape.kv_heads if ".k_proj." in ours else 0
        tensors[ours] = TensorInfo(PLAIN_TYPES.get(blocks.type, DECODED), tensor.shape)
        layout[ours] = StoredTensor(name, (part,), heads=heads, blocks=blocks)
    return config, shape, StoredWeights(files, tensors, layout, {}, False)


def _hugging_face_name(name: str) -> str:
    """The name of a weight; a name that no Llama has stays as it is."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    blk, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    # "00" and "0" would be one name.
    known = blk == "blk" and part in _IN_LAYER and layer.isascii() and layer.isdigit() and str(int(layer)) == layer
    return f"model.layers.{layer}.{_IN_LAYER[part]}.{kind}" if known else name


def refuse_other(file: Path, settings: Mapping[str, Any]) -> None:
    """Raise ModelError for what is no Llama. settings: of its header."""
    kind, architecture = settings.get("general.type", "model"), settings.get("general.architecture")
    if kind == "adapter":
        raise ModelError(
            f"{file} is an adapter for llama.cpp, not a model", "use the adapter as PEFT saved it: --adapter FOLDER"
        )
    if architecture != "llama":
        what = f"holds a {brief(architecture)} model, not a Llama" if isinstance(architecture, str) else "names no architecture"
        raise ModelError(f"{file} {what}", "olc runs Llama models; see `olc models list`", code="architecture")


def _refuse(file: Path, settings: Mapping[str, Any], files: int) -> None:
    """Raise ModelError for what is no Llama, or a part of one."""
    refuse_other(file, settings)
    count = settings.get("split.count", 1)
    if count != files and (files > 1 or count not in (0, 1)):
        raise ModelError(
            f"{file} is one of {short(count)} parts of a model, and by its name one of {files}",
            _NAMES_OF_PARTS,
        )
    for key, harmless in _HARMLESS.items():
        value = settings.get(f"llama.{key}")
        if value is not None and _shortest(value) not in harmless:
            raise ModelError(
                f"{file} has llama.{key} {short(value)}, which olc does not compute",
                "use a Llama without it, or run this one with llama.cpp",
                code="unsupported_config",
            )


def _config(file: Path, stored: Mapping[str, Any], tensors: _Found) -> tuple[dict[str, Any], LlamaShape]:
    """The checked configuration, put together as a config.json has it."""
    settings = {key.removeprefix("llama."): _shortest(value) for key, value in stored.items()}

    def number(key: str, default: int | None = None) -> int:
        value = settings.get(key, default)
        if isinstance(value, tuple) and len(set(value)) == 1:  # One for each layer.
            value = value[0]
        if value is None:
            raise damaged(file, f"has no llama.{key}")
        if type(value) is not int:
            raise ModelError(
                f"{file} has llama.{key} {short(value)}, not a number for the whole model",
                "use a Llama whose layers are alike; see `olc models list`",
            )
        return value

    _, embedding = tensors.get("token_embd.weight", (file, None))
    if embedding is None or len(embedding.shape) != 2:
        raise damaged(file, "has no matrix token_embd.weight: it is a vocabulary, or a part of a model")
    heads = number("attention.head_count")
    hidden = number("embedding_length")
    head_dim = number("attention.key_length", hidden // heads if heads else 0)
    for key in ("attention.value_length", "rope.dimension_count"):
        if number(key, head_dim) != head_dim:
            raise ModelError(
                f"{file} has llama.{key} {number(key)} for heads of {head_dim}, which olc does not compute",
                "use a Llama whose heads are rotated as a whole; see `olc models list`",
                code="unsupported_config",
            )
    if "attention.layer_norm_rms_epsilon" not in settings:
        raise damaged(file, "has no llama.attention.layer_norm_rms_epsilon")
    raw = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocab_size": embedding.shape[0],
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": settings["attention.layer_norm_rms_epsilon"],
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
        "sliding_window": settings.get("attention.sliding_window"),
        "rope_theta": settings.get("rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(file, settings, tensors),
    }
    return check_config(file, raw)


def _rope_scaling(file: Path, settings: Mapping[str, Any], tensors: _Found) -> dict[str, Any] | None:
    where, factors = tensors.get(_ROPE_FACTORS, (file, None))
    # As llama.cpp reads them: linear where no type is said, by 1 where no factor is, which has another name in the first files.
    kind = settings.get("rope.scaling.type", "linear")
    factor = settings.get("rope.scaling.factor", settings.get("rope.scale_linear", 0)) or 1.0
    if kind == "linear" and factor == 1.0:
        kind = "none"
    if factors is not None:
        if kind != "none":
            raise ModelError(
                f"{file} has both {_ROPE_FACTORS} and llama.rope.scaling.type {short(kind)}, which olc does not compute",
                "use another file of the model",
                code="unsupported_config",
            )
        # longrope divides each angle by a factor, and computes nothing else with these settings.
        numbers = list(_floats(where, factors))
        context = settings.get("context_length")
        return {
            "rope_type": "longrope",
            "short_factor": numbers,
            "long_factor": numbers,
            "attention_factor": 1.0,
            "original_max_position_embeddings": context,
        }
    if kind == "none":
        return None
    rope = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = settings.get("rope.scaling.original_context_length")
        for theirs, ours in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
            rope[ours] = settings.get(f"rope.scaling.{theirs}")
    return {key: value for key, value in rope.items() if value is not None}


def _floats(file: Path, tensor: GGUFTensor) -> tuple[float, ...]:
    """A short list of float32 numbers, as the shortest ones that are the same."""
    count = tensor.shape[0] if len(tensor.shape) == 1 else 0
    if tensor.type != 0 or not 0 < count <= 1 << 16:
        raise damaged(file, f"has {_ROPE_FACTORS} that is no list of float32 numbers")
    with file.open("rb") as stream:
        stream.seek(tensor.offset)
        content = stream.read(4 * count)
    if len(content) < 4 * count:
        raise damaged(file, f"is truncated: {_ROPE_FACTORS} reaches beyond its end")
    return tuple(map(_shortest, struct.unpack(f"<{count}f", content)))


def _blocks(file: Path, name: str, tensor: GGUFTensor) -> StoredBlocks:
    """Where the bytes of a tensor are, checked to be in the file. Raises ModelError for a type that cannot be decoded."""
    import gguf
    import numpy as np

    what = f"of a type {tensor.type}"
    try:
        kind = gguf.GGMLQuantizationType(tensor.type)
        what = f"of type {kind.name}"
        per_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if kind.name not in PLAIN_TYPES:
            gguf.quants.dequantize(np.zeros(block_bytes, np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        from importlib.metadata import version

        raise ModelError(
            f"{file}: {brief(name)} is {what}, which the package gguf {version('gguf')} does not decode",
            "a newer one may: pip install -U gguf; or use the model's Q8_0 or F16 file",
            code="gguf_type",
        ) from error
    count = 1
    for size in tensor.shape:
        count *= size
    if not tensor.shape or tensor.shape[-1] % per_block:
        raise damaged(file, f"has a damaged header: rows of {brief(name)} are no whole blocks of {kind.name}")
    needed = count // per_block * block_bytes
    size = file.stat().st_size
    if tensor.offset + needed > size:
        raise damaged(file, f"is truncated: {size:,} bytes, but {brief(name)} ends at {tensor.offset + needed:,}")
    return StoredBlocks(kind.name, tensor.offset, needed)


def _shortest(value: Any) -> Any:
    """The shortest decimal that is the same float32; any other value as it is."""
    if type(value) is not float:
        return value
    return next(found for found in _decimals(value) if _float32(found) == _float32(value) or found == value)


def _decimals(value: float) -> Iterator[float]:
    yield from (float(f"{value:.{digits}g}") for digits in range(1, 10))
    yield value


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return b""
