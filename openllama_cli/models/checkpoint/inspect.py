"""What a model folder holds, found without importing torch: format, shape, types, and whether its files are complete.

Everything that can be known from names, headers and sizes is checked here, before seconds are spent on importing torch and
loading: a wrong folder, a config.json that olc does not load, a missing shard, a truncated file, a weight that is missing, left
over or of another shape than config.json says. (transformers fills missing weights with random numbers and only warns.)
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.adapters.adapter import Adapter
from openllama_cli.models.checkpoint.config import check_config
from openllama_cli.models.checkpoint.gguf.header import gguf_files
from openllama_cli.models.checkpoint.gguf.llama import read_gguf
from openllama_cli.models.checkpoint.hugging_face import (
    HEAD,
    WeightFiles,
    complete_beside,
    llama_names,
    other_shards,
    refuse_wrapped,
    weight_files,
)
from openllama_cli.models.checkpoint.meta import read_meta, shard_files
from openllama_cli.models.checkpoint.safetensors_files import read_safetensors_header
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.checkpoint.stored import StoredBytes, StoredTensor, StoredWeights, TensorInfo
from openllama_cli.models.checkpoint.torch_files import read_torch_header
from openllama_cli.models.model_files import (
    TOKENIZER_FILES,
    WEIGHT_FILES,
    Format,
    brief,
    damaged,
    is_there,
    parsing,
    read_object,
)
from openllama_cli.models.stand_ins import refuse_file_as_model
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import locate

DTYPES = ("float32", "float16", "bfloat16")
_CONFIGS: dict[Format, str] = {"meta": "params.json"}
# What GPTQ, AWQ, bitsandbytes and FP8 checkpoints hold next to a weight or in its place.
_PACKED = (".qweight", ".qzeros", ".absmax", ".SCB", ".weight_scale", ".weight_packed")


@dataclass(frozen=True)
class Checkpoint(StoredWeights):
    """A model folder whose headers are valid, and all that was read of them: nobody needs to parse its files again.

    path: the folder, or a GGUF file. config: keyword arguments for transformers' LlamaConfig, checked. config_json: all of
    config.json, None for Meta's format and GGUF. tensors: without leftovers. dtype: the one most bytes are stored in, or are
    decoded to. tokenizer_files: paths, the vocabulary first; none where it is in the weights' file. bytes: of the weight files.
    tokenizer_path: what to open the tokenizer of. adapters: to merge into the weights as they are read (`adapters.apply`).
    """

    path: Path
    format: Format
    config: dict[str, Any]
    config_json: dict[str, Any] | None
    shape: LlamaShape
    dtype: str
    tokenizer_files: tuple[Path, ...]
    bytes: int
    tokenizer_path: Path
    adapters: tuple[Adapter, ...] = ()

    @property
    def tensor_bytes(self) -> int:
        """How many bytes the weights take as they are stored."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def composed(self) -> bool:
        """Whether weights are put together as they are read, and are not in a file as transformers takes them."""
        return self.format in ("meta", "gguf") or bool(self.adapters)

    @property
    def config_file(self) -> Path:
        """Where the configuration is."""
        return self.path if self.format == "gguf" else self.path / _CONFIGS.get(self.format, "config.json")

    @property
    def stored_types(self) -> str:
        """How most bytes of the weights are stored: "float16", or "Q4_K, Q6_K" in a GGUF file, the most used ones first."""
        kinds: Counter[str] = Counter()
        for stored in self.layout.values():
            if stored.blocks is not None and stored.blocks.type != "F32":
                kinds[stored.blocks.type] += stored.blocks.nbytes
        return ", ".join(kind for kind, _ in kinds.most_common(3)) or self.dtype


def inspect(path: Path) -> Checkpoint:
    """Look at a model folder: Hugging Face format (safetensors or .bin, in one file or in shards) or Meta's; or at a GGUF file.

    Reads config.json or params.json, the headers of the weight files and their sizes: milliseconds, no torch. Raises ModelError
    for a folder that olc cannot load, saying which file is wrong and how.
    """
    try:
        with parsing(path):
            if not path.is_dir():
                if path.suffix == ".gguf":
                    config, shape, weights = read_gguf(path)
                    return _checked(path, "gguf", config, None, shape, weights)
                raise refuse_file_as_model(path, str(path))
            return _inspect_meta(path) if _is_meta(path) else _inspect_hugging_face(path)
    except OSError as error:
        raise ModelError(
            f"{brief(str(error.filename or path), 300)} cannot be read: {error.strerror or error}",
            "check the file and its permissions",
        ) from error


def check_vocabulary(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Raise ModelError if text can become a token id that the embedding has no row for.

    Tokens that were only named after training ("[PAD]" as id 32000) do not count: text never becomes one of them.
    """
    highest = max(tokenizer.highest_text_id, tokenizer.bos_id or 0)
    if highest >= checkpoint.shape.vocab:
        raise ModelError(
            f"{tokenizer.path} has {highest + 1} tokens, but the model's embedding has {checkpoint.shape.vocab} rows",
            "use the tokenizer files that belong to this model",
        )


def _inspect_meta(folder: Path) -> Checkpoint:
    config, shape, weights = read_meta(folder)
    return _checked(folder, "meta", config, None, shape, weights)


def _inspect_hugging_face(folder: Path) -> Checkpoint:
    config_json = read_object(folder / "config.json")
    config, shape = check_config(folder / "config.json", config_json)
    expected = shape.tensors().keys() | {HEAD}

    def read(weights: WeightFiles) -> Checkpoint:
        return _checked(folder, weights.format, config, config_json, shape, _stored(weights, expected))

    found = weight_files(folder)
    if not found:
        raise ModelError(f"{folder} has a config.json but no weights ({_listing(folder)})", _advice(folder))
    first, *others = found
    try:
        if isinstance(first, ModelError):
            raise first
        return read(first)
    except ModelError as error:
        others += [WeightFiles(format_, shards, plain=False) for format_, shards in other_shards(folder)]
        complete = None
        with contextlib.suppress(ModelError):
            complete = _inspect_meta(folder) if shard_files(folder) and is_there(folder / "params.json") else None
        for other in reversed([other for other in others if isinstance(other, WeightFiles)]):
            with contextlib.suppress(ModelError):
                complete = read(other)
        if complete is None:
            raise
        raise complete_beside(error, folder, complete.files) from error


def _stored(weights: WeightFiles, expected: Set[str]) -> StoredWeights:
    """What the headers of the files say, under the names that transformers takes theirs for."""
    tensors: dict[str, TensorInfo] = {}
    layout: dict[str, StoredTensor] = {}
    storages: dict[Path, tuple[StoredBytes, ...]] = {}
    for file in weights.files:
        if weights.format == "safetensors":
            header = read_safetensors_header(file)
        else:
            header, storages[file] = read_torch_header(file)
        for name, meant in llama_names(header, expected).items():
            if meant in tensors:
                here = f"contains {brief(meant)}, which another shard contains too"
                once_more = f"contains both {brief(name)} and {brief(layout[meant].name)}, which is the same weight"
                raise damaged(file, once_more if file in layout[meant].files else here)
            tensors[meant] = header[name]
            layout[meant] = StoredTensor(name, (file,))
    names = {stored.name for stored in layout.values()}
    if weights.index is not None and weights.names - names:
        raise damaged(weights.index, f"lists {brief(min(weights.names - names))}, which none of its files contains")
    plain = weights.plain and weights.format == "safetensors" and names == layout.keys()
    return StoredWeights(weights.files, tensors, layout, storages, plain)


def _checked(
    folder: Path,
    format_: Format,
    config: dict[str, Any],
    config_json: dict[str, Any] | None,
    shape: LlamaShape,
    weights: StoredWeights,
) -> Checkpoint:
    """Compare what is stored with what the shape needs, and put the Checkpoint together."""
    files = weights.files
    # A buffer that conversions before 2023 stored with each layer; transformers computes it.
    stored = {name: tensor for name, tensor in weights.tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    expected = shape.tensors()
    missing = expected.keys() - stored.keys()
    unexpected = stored.keys() - expected.keys() - ({HEAD} if shape.tie else set())
    where = files[0] if len(files) == 1 else folder
    source = "its header" if format_ == "gguf" else _CONFIGS.get(format_, "config.json")
    packed = [name for name in stored if name.endswith(_PACKED)]
    if packed:
        raise ModelError(
            f"{where} contains quantized weights, such as {brief(packed[0])}", "use the model's float16 or bfloat16 version"
        )
    if missing:
        refuse_wrapped(str(where), stored.keys(), expected.keys() | {HEAD})
        if missing == {HEAD}:
            raise ModelError(
                f"{where} is missing {HEAD}, which turns its output into tokens: it is a LlamaModel without a head",
                "use the checkpoint of a LlamaForCausalLM; where the head is the embedding, config.json needs "
                '"tie_word_embeddings": true',
            )
        raise ModelError(
            f"{where} is missing {len(missing)} of the {len(expected)} weights that {source} describes: {_first(missing)}",
            "use a complete checkpoint: olc does not fill gaps with random numbers",
        )
    if unexpected:
        raise ModelError(
            f"{where} contains {len(unexpected)} weights that {source} does not describe: {_first(unexpected)}",
            "olc loads Llama models only; see `olc models list`"
            if format_ == "gguf"
            else f"use {source} and weights of the same model",
        )
    for name, tensor in stored.items():
        wanted = expected.get(name, expected["model.embed_tokens.weight"])
        if tensor.shape != wanted:
            raise ModelError(
                f"{where}: {brief(name)} has shape {_times(tensor.shape)}, but {source} implies {_times(wanted)}",
                f"use {source} and weights of the same model",
            )
        if tensor.dtype not in DTYPES:
            raise ModelError(
                f"{where}: {brief(name)} is stored as {tensor.dtype}; olc supports {', '.join(DTYPES)}",
                "use the model's float16 or bfloat16 version",
            )
    sizes: Counter[str] = Counter()
    for tensor in stored.values():
        sizes[tensor.dtype] += tensor.nbytes
    return Checkpoint(
        **vars(replace(weights, tensors=stored)),
        path=folder,
        format=format_,
        config=config,
        config_json=config_json,
        shape=shape,
        dtype=sizes.most_common(1)[0][0],
        tokenizer_files=() if format_ == "gguf" else tokenizer_files(folder),
        bytes=sum(file.stat().st_size for file in files),
        tokenizer_path=folder,
    )


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The tokenizer's files in a folder, the vocabulary first. Raises ModelError where there is none."""
    vocabulary = locate(folder)
    beside = (vocabulary.with_name(name) for name in TOKENIZER_FILES)
    return (vocabulary, *(file for file in beside if file.is_file() and file != vocabulary))


def _is_meta(folder: Path) -> bool:
    """Whether a folder is in Meta's format; Hugging Face weights next to it win. Raises ModelError for half of either."""
    # A broken symlink counts: others may lie complete beside it.
    has_weights = any(os.path.lexists(folder / f"{name}{end}") for name in WEIGHT_FILES.values() for end in ("", ".index.json"))
    has_config, has_params = is_there(folder / "config.json"), is_there(folder / "params.json")
    if has_config and (has_weights or not has_params):
        return False
    shards = shard_files(folder)
    if has_config:
        return bool(shards)
    if shards and has_params:
        return True
    if shards:
        raise ModelError(f"{folder} has {shards[0].name} but no params.json", "copy the model's params.json into it")
    if has_params:
        raise ModelError(f"{folder} has a params.json but no consolidated.00.pth", _advice(folder))
    if has_weights:
        raise ModelError(f"{folder} has weights but no config.json", "copy the model's config.json into it")
    raise ModelError(f"{folder} is not a model folder: it has no config.json ({_listing(folder)})", _advice(folder))


def _listing(folder: Path) -> str:
    """What is in a folder, in a few words."""
    names = sorted(file.name for file in folder.iterdir())
    if not names:
        return "the folder is empty"
    return f"it contains {', '.join(map(brief, names[:3]))}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _advice(folder: Path) -> str:
    """What to give in place of a folder without a model."""
    if (folder / "adapter_config.json").is_file():
        return f"this is an adapter: give its model too, -m MODEL --adapter {folder}"
    gguf = next(iter(gguf_files(folder)), None)
    if gguf is not None:
        return f"give a GGUF file itself, such as {gguf}"
    nested = sorted(
        child.parent for pattern in ("config.json", "params.json") for child in folder.glob(f"*/{pattern}")
    ) or sorted(child.parent for child in folder.glob("snapshots/*/config.json"))
    if nested:
        return f"did you mean {nested[0]}?"
    return "give the folder with config.json, the weights and tokenizer.model"


def _first(names: set[str]) -> str:
    """The first two of many names, layers in order of number."""
    ordered = sorted(names, key=lambda name: re.sub("[0-9]{1,9}", lambda number: number[0].zfill(9), name))
    return ", ".join(map(brief, ordered[:2])) + (", …" if len(ordered) > 2 else "")


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
