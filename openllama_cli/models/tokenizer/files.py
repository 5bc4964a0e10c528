"""The files a tokenizer comes in: where they lie, what they hold when they are not what their name says, and what the
model's
configuration adds to them (end-of-sequence ids, added tokens)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.json_files import GET_AGAIN, read_object

SENTENCEPIECE_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"

# ModelProto and TrainerSpec fields of sentencepiece_model.proto.
_TRAINER_SPEC, _NORMALIZER_SPEC, _DENORMALIZER_SPEC = 2, 3, 5
_MODEL_TYPE_FIELD = 3
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class ModelProto:
    """What the top level of a SentencePiece model file says.

    algorithm: "bpe", "unigram", "word" or "char".
    denormalizes: text is rewritten after decoding, so that the text of a token may depend on all tokens before it.
    """

    algorithm: str
    denormalizes: bool


def locate(path: Path) -> Path:
    """The tokenizer file of a model folder: tokenizer.model, else tokenizer.json.

    Meta's downloads keep one tokenizer.model beside the folders of the sizes (llama/tokenizer.model,
    llama/7B/params.json), so for a folder in Meta's format the parent is looked at too. A tokenizer.model that is
    Llama 3's tiktoken file is passed over for a tokenizer.json beside it, which holds the same tokenizer.

    path may also be a tokenizer file itself. Raises ModelError when there is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise ModelError(f"{path} does not exist", "check the path; `olc models list` shows the models that are here")
    model, fast = path / SENTENCEPIECE_FILE, path / JSON_FILE
    if model.is_file():
        return fast if fast.is_file() and _is_tiktoken(model) else model
    if fast.is_file():
        return fast
    shared = path.resolve().parent / SENTENCEPIECE_FILE
    if shared.is_file() and ((path / "params.json").is_file() or any(path.glob("consolidated.*.pth"))):
        return shared
    if model.is_symlink() or fast.is_symlink():
        raise ModelError(f"{model if model.is_symlink() else fast} is a link to a file that is gone", GET_AGAIN)
    raise ModelError(
        f"{path} has no tokenizer: neither {SENTENCEPIECE_FILE} nor {JSON_FILE}",
        f"copy the model's {SENTENCEPIECE_FILE} into it, or give the folder that holds the whole model",
    )


def configured_ids(folder: Path, key: str) -> frozenset[int]:
    """The token ids that generation_config.json and config.json give for `key` ("eos_token_id"): a number, a list or
    null.
    """
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_object(folder / name).get(key)
        for token in value if isinstance(value, list) else [value]:
            if token is None:
                continue
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise ModelError(
                    f"{folder / name}: {key} is {value!r}, not a token id",
                    "make it a number such as 2, a list, or null",
                )
            found.add(token)
    return frozenset(found)


def added_pieces(folder: Path, first_id: int) -> dict[int, str]:
    """Tokens that were added after training, from added_tokens.json and tokenizer_config.json: id → text, ids from
    `first_id`.
    """
    config = read_object(folder / "tokenizer_config.json").get("added_tokens_decoder")
    pairs: list[tuple[Any, Any]] = [(token, text) for text, token in read_object(folder / "added_tokens.json").items()]
    if isinstance(config, dict):
        pairs += [(token, entry.get("content")) for token, entry in config.items() if isinstance(entry, dict)]
    found = {int(token): text for token, text in pairs if isinstance(text, str) and re.fullmatch(r"[0-9]{1,9}", str(token))}
    return {token: text for token, text in sorted(found.items()) if token >= first_id}


def parse_model(data: bytes, path: Path) -> ModelProto:
    """Read the top level of a SentencePiece model without protobuf, whose import costs as much as the rest of a start.

    A file cut between two pieces still parses, but has lost the specifications that follow them: that is reported here.
    Raises ModelError naming what the file is instead, or that it is cut short.
    """
    specs: dict[int, bytes] = {}
    try:
        for number, start, end in _fields(data):
            if number != 1:  # 1: the pieces
                specs[number] = data[start:end]
    except ValueError:
        raise not_a_model(data, path) from None
    if _TRAINER_SPEC not in specs or _NORMALIZER_SPEC not in specs:
        raise not_a_model(data, path)
    model_type = 1
    try:
        for number, start, _ in _fields(specs[_TRAINER_SPEC]):
            if number == _MODEL_TYPE_FIELD:
                model_type = _varint(specs[_TRAINER_SPEC], start)[0]
    except ValueError:
        raise not_a_model(data, path) from None
    return ModelProto(_MODEL_TYPES.get(model_type, "unknown"), bool(specs.get(_DENORMALIZER_SPEC)))


def not_a_model(data: bytes, path: Path) -> ModelError:
    """The error for a tokenizer.model that SentencePiece cannot read, naming what the file seems to be."""
    head = data[:4096].lstrip()
    size = f"{len(data):,} bytes"
    if not head:
        return ModelError(f"{path} is empty" if not data else f"{path} is blank ({size})", GET_AGAIN)
    if head.startswith(b"version https://git-lfs"):
        return ModelError(
            f"{path} is a Git LFS pointer ({size}), not the file itself",
            "run `git lfs pull` in its folder, or download the file",
        )
    if re.match(rb"<(!doctype|html|\?xml|head)", head, re.IGNORECASE):
        return ModelError(f"{path} is a web page ({size}), not a SentencePiece model", GET_AGAIN)
    if _TIKTOKEN_LINE.match(head):
        return ModelError(
            f"{path} is a tiktoken vocabulary (Llama 3), not a SentencePiece model",
            f"use the Hugging Face folder of this model, which has a {JSON_FILE}",
        )
    if head[:1] in b"{[":
        return ModelError(
            f"{path} is JSON text, not a SentencePiece model", f"name it {JSON_FILE} if it is one; else {GET_AGAIN}"
        )
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x1f\x8b")):
        return ModelError(f"{path} is an archive or PyTorch file ({size}), not a SentencePiece model", GET_AGAIN)
    if data.startswith(b"\n"):  # field 1, length-delimited: the first piece
        return ModelError(f"{path} is cut short or damaged ({size}): SentencePiece cannot read it", GET_AGAIN)
    return ModelError(f"{path} is not a SentencePiece model ({size})", GET_AGAIN)


_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def _is_tiktoken(path: Path) -> bool:
    with path.open("rb") as file:
        return _TIKTOKEN_LINE.match(file.read(4096)) is not None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A protobuf variable-length integer: (value, position after it). Raises ValueError where the data ends or it is
    too long.
    """
    value = 0
    for length, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * length
        if byte < 0x80:
            return value, position + length + 1
    raise ValueError("no end of a number")


def _fields(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The fields of one protobuf message: (field number, start, end of the value). Raises ValueError if it is not
    one.
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        start = position
        if kind == 0:
            _, position = _varint(data, position)
        elif kind == 2:
            length, start = _varint(data, position)
            position = start + length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position > len(data):
            raise ValueError("the data ends inside a field")
        yield tag >> 3, start, position
