"""Llama as Meta released it: consolidated.NN.pth, params.json, tokenizer.model.

Each file holds the slice of every matrix that one GPU of Meta's tensor-parallel `Llama.build` worked on. Here the slices are
joined again, so that any number of files loads on any number of devices, without a process group. Which dimension each matrix
is cut along, and the rotary embedding over neighboring rows, are those of the published model
(https://github.com/meta-llama/llama/blob/main/llama/model.py: ColumnParallelLinear cuts rows, RowParallelLinear columns).
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.config import integer, positive
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.checkpoint.stored import StoredTensor, StoredWeights, TensorInfo
from openllama_cli.models.checkpoint.torch_files import TorchHeader, read_torch_header
from openllama_cli.models.model_files import META_SHARD, brief, damaged, read_object
from openllama_cli.system.files import file_fingerprint

if TYPE_CHECKING:
    import torch


# Meta's name for each weight of a layer, its Hugging Face name, and the dimension it is cut along (None: a copy in each file).
_LAYER = {
    "attention.wq.weight": ("self_attn.q_proj.weight", 0),
    "attention.wk.weight": ("self_attn.k_proj.weight", 0),
    "attention.wv.weight": ("self_attn.v_proj.weight", 0),
    "attention.wo.weight": ("self_attn.o_proj.weight", 1),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", 0),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", 1),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", 0),
    "attention_norm.weight": ("input_layernorm.weight", None),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
}


def shard_files(folder: Path) -> tuple[Path, ...]:
    """The shards in order: consolidated.00.pth, .01.pth, …; also under the names .pt and 00-of-02. Empty if there are none.

    Raises ModelError if one between is missing, or one is there twice.
    """
    shards: dict[int, Path] = {}
    wanted = 0
    for file in sorted(folder.iterdir()):
        match = META_SHARD.fullmatch(file.name)
        if match is None:
            continue
        number, of = int(match[1] or 0), int(match[2] or 0)
        if number in shards:
            raise ModelError(
                f"{folder} has shard {number:02d} under two names, {shards[number].name} and {file.name}",
                "remove or rename the one that does not belong to the model",
            )
        shards[number] = file
        wanted = max(wanted, of)
    if shards and wanted in shards and 0 not in shards:  # 1-of-2, 2-of-2.
        shards = {number - 1: file for number, file in shards.items()}
    for number in range(max(len(shards), wanted)):
        if number not in shards:
            last = shards[max(shards)].name
            raise ModelError(
                f"{folder} has {last} but no {_sibling(last, number)}",
                "copy the missing file into it; each file holds a slice of every matrix",
            )
    return tuple(shards[number] for number in sorted(shards))


def _sibling(name: str, number: int) -> str:
    """The name of another shard, in the way that `name` is written."""
    if not re.search(r"[0-9]{2,3}", name):  # consolidated.pth
        return f"consolidated.{number:02d}.pth"
    return re.sub(r"[0-9]{2,3}", f"{number:02d}", name, count=1)


def _refuse_incomplete(params_file: Path, params: dict[str, Any], files: tuple[Path, ...], headers: list[TorchHeader]) -> None:
    """Raise ModelError if there are fewer or more files than slices, or if one file is there under two names.

    How many slices there are follows from the first file: it holds an equal part of the rows of every query matrix.
    """
    query = headers[0].tensors.get("layers.0.attention.wq.weight")
    hidden = params.get("dim")
    slices = len(files)
    if isinstance(hidden, int) and query is not None and len(query.shape) == 2 and query.shape[1] == hidden and query.shape[0]:
        slices = hidden // query.shape[0]
    if slices > len(files):
        missing = ", ".join(_sibling(files[-1].name, number) for number in range(len(files), min(slices, len(files) + 3)))
        missing += ", …" * (slices > len(files) + 3)
        raise ModelError(
            f"{params_file.parent} has {len(files)} of {slices} shards; missing: {missing}",
            "copy the missing files into it; each file holds a slice of every matrix",
        )
    if 0 < slices < len(files):
        part = "all of the model" if slices == 1 else f"1/{slices} of the model"
        raise ModelError(
            f"{params_file.parent} has {len(files)} shards, but {files[0].name} holds {part}",
            f"move {files[slices].name} out of the folder: it is of another model, or a copy",
        )
    for number, (file, header) in enumerate(zip(files, headers, strict=True)):
        for other, others in zip(files[:number], headers[:number], strict=True):
            if file.samefile(other) or _same_bytes(file, header, other, others):
                raise ModelError(
                    f"{file} is the same file as {other.name}: one shard under two names",
                    f"copy the real {file.name} from its source; each file holds another slice of every matrix",
                )


def _same_bytes(file: Path, header: TorchHeader, other: Path, others: TorchHeader) -> bool:
    """Whether two files hold the same weights, by their checksums; where they have none, by samples of their bytes."""
    sums = [(stored.count, stored.crc) for stored in header.storages]
    if sums != [(stored.count, stored.crc) for stored in others.storages]:
        return False
    return any(crc for _, crc in sums) or file_fingerprint(file) == file_fingerprint(other)


def read_meta(folder: Path) -> tuple[dict[str, Any], LlamaShape, StoredWeights]:
    """params.json and the headers of all shards: the keyword arguments for transformers' LlamaConfig, the shape, the weights.

    Raises ModelError for anything missing, damaged or inconsistent.
    """
    files = shard_files(folder)
    params_file = folder / "params.json"
    params = read_object(params_file)
    params = params["model"] if isinstance(params.get("model"), dict) else params
    if params.get("quantization_args") or params.get("lora_args"):
        raise ModelError(f"{params_file} describes quantized weights", "use the model's bfloat16 version")
    read = [read_torch_header(file) for file in files]
    _refuse_incomplete(params_file, params, files, read)
    headers = [header.tensors for header in read]
    hidden, layers, heads = (integer(params_file, params, key) for key in ("dim", "n_layers", "n_heads"))
    kv_heads = integer(params_file, params, "n_kv_heads", heads)
    if hidden % heads or (hidden // heads) % 2 or heads % kv_heads:
        raise damaged(params_file, f"has {heads} heads and {kv_heads} key/value heads for a dim of {hidden}")
    layout = _layout(files, layers, heads, kv_heads, tie="output.weight" not in headers[0])
    embedding = headers[0].get("tok_embeddings.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise damaged(files[0], "has no matrix tok_embeddings.weight: it is not a Llama in Meta's format")
    # Llama 1 and 2 cut the embedding along the hidden size, Llama 3 along the vocabulary.
    if len(files) > 1 and embedding.shape[1] == hidden:
        layout["model.embed_tokens.weight"] = StoredTensor("tok_embeddings.weight", files, 0)
    tensors = {name: _joined(files, headers, part) for name, part in layout.items()}
    unknown = headers[0].keys() - {part.name for part in layout.values()} - {"rope.freqs"}
    if unknown:
        raise ModelError(
            f"{files[0]} contains {len(unknown)} weights that are not a Llama's, such as {brief(min(unknown))}",
            "olc loads Llama models only; see `olc models list`",
        )
    shape = LlamaShape(
        hidden=hidden,
        intermediate=tensors["model.layers.0.mlp.gate_proj.weight"].shape[0],
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        vocab=tensors["model.embed_tokens.weight"].shape[0],
        context=_context(params_file, params),
        rms_norm_eps=positive(params_file, params, "norm_eps", 1e-5),
        tie="lm_head.weight" not in layout,
    )
    storages = {file: header.storages for file, header in zip(files, read, strict=True)}
    return _config(params_file, params, shape), shape, StoredWeights(files, tensors, layout, storages, False)


def half_split(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Reorder the rows of a query or key matrix (heads · d, columns), or of its bias, for transformers' rotary embedding.

    Within each head of size d Meta rotates the rows (2i, 2i + 1) together, transformers the rows (i, i + d/2).
    """
    return weight.reshape(heads, len(weight) // heads // 2, 2, -1).transpose(1, 2).reshape(weight.shape)


def interleaved(weight: "torch.Tensor", heads: int) -> "torch.Tensor":
    """`half_split` undone: rows in Meta's and llama.cpp's order."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


def _layout(files: tuple[Path, ...], layers: int, heads: int, kv_heads: int, tie: bool) -> dict[str, StoredTensor]:
    layout = {"model.embed_tokens.weight": StoredTensor("tok_embeddings.weight", files, 1)}
    for layer in range(layers):
        for name, (hf_name, dim) in _LAYER.items():
            rotary = {"attention.wq.weight": heads, "attention.wk.weight": kv_heads}.get(name, 0)
            where = files[:1] if dim is None else files
            layout[f"model.layers.{layer}.{hf_name}"] = StoredTensor(f"layers.{layer}.{name}", where, dim, rotary)
    layout["model.norm.weight"] = StoredTensor("norm.weight", files[:1])
    if not tie:
        layout["lm_head.weight"] = StoredTensor("output.weight", files, 0)
    return layout


def _joined(files: tuple[Path, ...], headers: list[dict[str, TensorInfo]], part: StoredTensor) -> TensorInfo:
    """The type and shape of a weight put together from all files."""
    for file, header in zip(files, headers, strict=True):
        if part.name not in header:
            raise damaged(file, f"has no weight {part.name}")
    slices = [header[part.name] for header in headers]
    first = slices[0]
    if part.dim is None:
        return first
    alike = {
        (slice_.dtype, len(slice_.shape), *(size for dim, size in enumerate(slice_.shape) if dim != part.dim))
        for slice_ in slices
    }
    if len(alike) > 1 or len(first.shape) != 2:
        raise damaged(files[0], f"does not match the other shards: {part.name} has different shapes")
    shape = list(first.shape)
    shape[part.dim] = sum(slice_.shape[part.dim] for slice_ in slices)
    return TensorInfo(first.dtype, tuple(shape))


def _config(file: Path, params: dict[str, Any], shape: LlamaShape) -> dict[str, Any]:
    """The keyword arguments for transformers' LlamaConfig."""
    config: dict[str, Any] = {
        **shape.config(),
        "hidden_act": "silu",
        "rope_theta": positive(file, params, "rope_theta", 10_000.0),
    }
    if params.get("use_scaled_rope"):
        if params.get("rope_scaling_factor") is None:
            raise ModelError(
                f"{file} has use_scaled_rope but no rope_scaling_factor",
                'add "rope_scaling_factor": 8 for Llama 3.1, 32 for Llama 3.2',
            )
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": positive(file, params, "rope_scaling_factor", 8.0),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return config


def _context(file: Path, params: dict[str, Any]) -> int:
    """Positions the model was trained on, which params.json rarely says.

    Told apart as the releases were: Llama 3 by rope_theta 500,000 (131,072 with scaled rotary embeddings), Code Llama by
    1,000,000, Llama 2 by norm_eps 1e-5, and Llama 1, as OpenLLaMA, has 2048.
    """
    if params.get("max_seq_len") is not None:
        return integer(file, params, "max_seq_len")
    theta = positive(file, params, "rope_theta", 10_000.0)
    if params.get("use_scaled_rope"):
        return 131_072
    if theta > 10_000:
        return 8192 if theta == 500_000 else 16_384
    return 4096 if positive(file, params, "norm_eps", 1e-5) == 1e-5 else 2048
