"""A model's weights as a GGUF file for llama.cpp, with as many bits as olc's own: what `olc bench --against llama.cpp` runs.

The file has no tokenizer, since ids are measured. Every matrix, the embedding and the output included, has the same type.
"""

from pathlib import Path
from typing import Any

from openllama_cli.errors import OlcError
from openllama_cli.models.checkpoint.inspect import Checkpoint, inspect
from openllama_cli.models.spec import QuantizeName
from openllama_cli.system.memory import size
from openllama_cli.system.progress import Progress, shown

# GGUF's name of a type → bits of a weight; Q8_0 and Q4_0 have a float16 scale for every 32 weights.
BITS = {"F16": 16.0, "BF16": 16.0, "Q8_0": 8.5, "Q4_0": 4.5}
_STORED = {"float16": "F16", "bfloat16": "BF16"}
_QUANTIZED = {"int8": "Q8_0", "int4": "Q4_0"}


def gguf_type(stored: str, quantize: QuantizeName | None) -> str:
    """GGUF's type with as many bits as olc's weights. stored: the checkpoint's, "float16" or "bfloat16"."""
    return _QUANTIZED[quantize] if quantize else _STORED[stored]


def gguf_file(folder: Path, quantize: QuantizeName | None, progress: Progress) -> Path:
    """The GGUF file of a Llama without biases and rope scaling, written into its folder unless it is there.

    Raises OlcError if the disk is too full for it.
    """
    checkpoint = inspect(folder)
    kind = gguf_type(checkpoint.dtype, quantize)
    file = folder / f"{kind.lower()}.gguf"
    if file.exists():
        return file
    partial = file.with_suffix(".partial")
    total = int(checkpoint.shape.parameters() * BITS[kind] / 8)
    try:
        with shown(progress, f"writing {file} for llama.cpp", total):
            _write(partial, checkpoint, kind, progress)
            partial.rename(file)
    except OSError as error:
        raise OlcError(
            f"cannot write {file} ({size(total)}) for llama.cpp: {error.strerror}",
            "free some space there, or set XDG_CACHE_HOME to a larger disk",
            code="disk",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return file


def _write(file: Path, checkpoint: Checkpoint, kind: str, progress: Progress) -> None:
    """Tensor by tensor, so that one of them is in memory at a time."""
    import gguf
    import numpy as np

    from openllama_cli.models.checkpoint.gguf.llama import gguf_name
    from openllama_cli.models.checkpoint.meta import interleaved
    from openllama_cli.models.checkpoint.tensors import TensorSource

    shape = checkpoint.shape
    writer = gguf.GGUFWriter(file, "llama")
    _describe(writer, checkpoint)
    matrix_type = gguf.GGMLQuantizationType[kind]
    types = {
        name: matrix_type if len(dimensions) > 1 else gguf.GGMLQuantizationType.F32
        for name, dimensions in shape.tensors().items()
    }
    for name, dimensions in shape.tensors().items():
        nbytes = int(np.prod(gguf.quant_shape_to_byte_shape(dimensions, types[name])))
        writer.add_tensor_info(gguf_name(name), dimensions, np.dtype(np.float32), nbytes, raw_dtype=types[name])
    try:
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        source = TensorSource(checkpoint)
        for name in shape.tensors():
            tensor = source.get(name).float()
            heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(name.split(".")[-2])
            stored = gguf.quants.quantize((interleaved(tensor, heads) if heads else tensor).numpy(), types[name])
            writer.write_tensor_data(stored)
            progress.advance(stored.nbytes)
    finally:
        writer.close()


def _describe(writer: Any, checkpoint: Checkpoint) -> None:
    """The numbers that make the Llama. writer: a GGUFWriter."""
    shape = checkpoint.shape
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("no_vocab")
