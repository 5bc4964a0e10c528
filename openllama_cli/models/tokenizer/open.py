"""Finding the tokenizer of a model, and opening it. Neither torch nor transformers is imported."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import META_SHARD, damaged, read
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.files import Surroundings, is_tiktoken, surroundings
from openllama_cli.models.tokenizer.sentencepiece_model import SentencePieceTokenizer
from openllama_cli.models.tokenizer.settings import settings_of


def open_tokenizer(path: Path, *, config_json: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a model folder, from the file that `locate` finds, or of a GGUF file.

    config_json: what the folder's config.json holds, if the caller has read it (`Checkpoint.config_json`). Raises ModelError
    naming what is wrong with a file.
    """
    if path.suffix == ".gguf" and not path.is_dir():
        return _of_gguf(path)
    file = locate(path)
    return _opened(file, read(file), surroundings(path, config_json), json_file=file.suffix == ".json")


def _of_gguf(file: Path) -> Tokenizer:
    from openllama_cli.models.checkpoint.gguf.header import parts, read_header
    from openllama_cli.models.tokenizer import gguf

    file = parts(file)[0]
    header = read_header(file)
    made = gguf.tokenizer_files(header.settings, file)
    config = json.loads(made["tokenizer_config.json"])
    embedding = header.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None and embedding.shape else sys.maxsize
    beside = Surroundings(file, settings_of(file, config, {}, {}), rows, gguf.eos_ids(header.settings))
    name = next(iter(made))
    opened = _opened(file, made[name], beside, json_file=name == "tokenizer.json")
    opened.notes += gguf.notes(header.settings)
    return opened


def _opened(file: Path, data: bytes, beside: Surroundings, *, json_file: bool) -> Tokenizer:
    if json_file:
        from openllama_cli.models.tokenizer.tokenizer_json import JsonTokenizer

        return JsonTokenizer(file, data, beside)
    return SentencePieceTokenizer(file, data, beside)


def locate(path: Path) -> Path:
    """The tokenizer file of a model folder: tokenizer.model, else tokenizer.json.

    Meta's downloads keep one tokenizer.model next to the folders of the sizes (llama/tokenizer.model,
    llama/7B/params.json), so for a folder in Meta's format the parent is looked at too. A tokenizer.model that is
    Llama 3's tiktoken file is passed over for a tokenizer.json next to it, which holds the same tokenizer.

    Raises ModelError when there is none.
    """
    model, fast = path / "tokenizer.model", path / "tokenizer.json"
    if model.is_file():
        return fast if fast.is_file() and is_tiktoken(read(model)[:4096]) else model
    if fast.is_file():
        return fast
    shared = path.resolve().parent / "tokenizer.model"
    if shared.is_file() and (
        (path / "params.json").is_file() or any(META_SHARD.fullmatch(file.name) for file in path.iterdir())
    ):
        return shared
    if model.is_symlink() or fast.is_symlink():
        raise damaged(model if model.is_symlink() else fast, "is a broken symlink")
    raise ModelError(
        f"{path} has no tokenizer: neither tokenizer.model nor tokenizer.json",
        "copy the model's tokenizer.model into it, or give the folder of the complete model",
    )
