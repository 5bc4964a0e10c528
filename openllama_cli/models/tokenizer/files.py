"""What the files of a tokenizer say: a SentencePiece model without protobuf, or what is there in its place; end-of-sequence ids
and the size of the model's configuration.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import damaged, fetch_again, read_object, short
from openllama_cli.models.stand_ins import refuse_stand_in
from openllama_cli.models.tokenizer.settings import Settings, read_settings

# ModelProto and TrainerSpec fields of sentencepiece_model.proto.
_PIECES, _TRAINER_SPEC, _NORMALIZER_SPEC, _DENORMALIZER_SPEC = 1, 2, 3, 5
_TYPE, _NORMAL = 3, 1  # of a piece
# The largest published vocabularies have 262,144.
_MOST_PIECES = 1_000_000
_MODEL_TYPE_FIELD = 3
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


@dataclass(frozen=True)
class Surroundings:
    """What is said beside a tokenizer's own file.

    folder: where, for errors. settings: of tokenizer_config.json and its like. rows: of the model's embedding; sys.maxsize
    where that is not known. eos_ids: ids that end a sequence, by the model's configuration.
    """

    folder: Path
    settings: Settings
    rows: int
    eos_ids: frozenset[int]

    def all_eos_ids(self, own: int | None) -> frozenset[int]:
        """With the tokenizer's own, if it has one."""
        return self.eos_ids if own is None else self.eos_ids | {own}


def surroundings(folder: Path, config_json: Mapping[str, Any] | None) -> Surroundings:
    """What the files of a model's folder say. config_json: of config.json, if it was read already. Raises ModelError."""
    return Surroundings(folder, read_settings(folder), embedding_rows(folder, config_json), eos_ids(folder, config_json))


def eos_ids(folder: Path, config_json: Mapping[str, Any] | None) -> frozenset[int]:
    """The ids that end a sequence by generation_config.json and config.json.

    config_json: what the latter holds, if it was read already. Raises ModelError where one is not a number, a list or null.
    """
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        known = config_json if name == "config.json" else None
        value = (read_object(folder / name) if known is None else known).get("eos_token_id")
        for token in value if isinstance(value, list) else [value]:
            if token is None:
                continue
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < 1 << 31:
                raise ModelError(
                    f"{folder / name}: eos_token_id is {short(value)}, not a token id",
                    "make it a number such as 2, a list, or null",
                )
            found.add(token)
    return frozenset(found)


def embedding_rows(folder: Path, config_json: Mapping[str, Any] | None = None) -> int:
    """The rows of the model's embedding, as its config.json says; sys.maxsize where it does not."""
    config = read_object(folder / "config.json") if config_json is None else config_json
    rows = config.get("vocab_size")
    return rows if isinstance(rows, int) and rows > 0 else sys.maxsize


def parse_model(data: bytes, path: Path) -> tuple[str, bool]:
    """The algorithm of a SentencePiece model ("bpe", "unigram", "word" or "char"), and whether it denormalizes: rewrites text
    after decoding, so that the text of a token may depend on all tokens before it.

    Without protobuf, whose import costs as much as the rest of a start.

    A file cut between two pieces still parses, but has lost the specifications that follow them: that is reported here.
    Raises ModelError naming what the file is instead, or that it is truncated.
    """
    specs: dict[int, bytes] = {}
    try:
        for count, (number, start, end) in enumerate(_fields(data)):
            if number != _PIECES:
                specs[number] = data[start:end]
            if count > _MOST_PIECES:
                raise ValueError("too many pieces")
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
    return _MODEL_TYPES.get(model_type, "unknown"), bool(specs.get(_DENORMALIZER_SPEC))


def normal_pieces(data: bytes) -> list[bool]:
    """Of each piece of a SentencePiece model, whether its training found it: no control, byte or user-defined one."""
    normal = []
    for number, start, end in _fields(data):
        if number == _PIECES:
            piece = data[start:end]
            types = [_varint(piece, place)[0] for field, place, _ in _fields(piece) if field == _TYPE]
            normal.append(not types or types[-1] == _NORMAL)
    return normal


def not_a_model(data: bytes, path: Path) -> ModelError:
    """The error for a tokenizer.model that SentencePiece cannot read, naming what the file seems to be."""
    try:
        refuse_stand_in(path, data[:4096], "a SentencePiece model")
    except ModelError as error:
        return error
    head = data[:4096].lstrip()
    size = f"{len(data):,} bytes"
    if is_tiktoken(head):
        return ModelError(
            f"{path} is a tiktoken vocabulary (Llama 3), not a SentencePiece model",
            "use the Hugging Face folder of this model, which has a tokenizer.json",
        )
    if head[:1] in b"{[":
        return ModelError(
            f"{path} is JSON text, not a SentencePiece model",
            f"rename it to tokenizer.json if it is one; otherwise {fetch_again(path)}",
        )
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x1f\x8b")):
        return damaged(path, f"is an archive or PyTorch file ({size}), not a SentencePiece model")
    if data.startswith(b"\n"):  # field 1, length-delimited: the first piece
        return damaged(path, f"is truncated or damaged ({size}): SentencePiece cannot read it")
    return damaged(path, f"is not a SentencePiece model ({size})")


def is_tiktoken(start: bytes) -> bool:
    """Whether a file that starts like this is Llama 3's tokenizer.model: lines of a piece in base64 and its rank."""
    return re.match(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", start) is not None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A protobuf variable-length integer: (value, position after it). Raises ValueError where the data ends or
    it is too long.
    """
    value = 0
    for length, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * length
        if byte < 0x80:
            return value, position + length + 1
    raise ValueError("an unterminated number")


def _fields(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The fields of one protobuf message: (field number, start, end of the value). Raises ValueError if it is
    not one.
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
