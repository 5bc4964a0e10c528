"""The tokenizer in a GGUF file, as the files of a model folder that hold the same one.

llama.cpp keeps the pieces of a tokenizer with scores and types, and a few settings. Of SentencePiece's ("llama", "t5") that
makes a `tokenizer.model` again: its fields are those of sentencepiece_model.proto, written here without protobuf, whose import
takes as long as the rest of a start. Of a byte-level one ("gpt2") it makes a `tokenizer.json`; the expression that cuts text
into words is only named in the file, and is one of llama.cpp's (llama-vocab.cpp).
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.gguf.header import read_header
from openllama_cli.models.model_files import brief, damaged

# Types of pieces: those of SentencePiece.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SCORE_OF_ADDED = -1000.0
_PREFIX_OF_KEYS = "tokenizer.ggml."
# Special ids of a SentencePiece model, with the types that their pieces may have.
_USUAL_IDS = {"unknown": (0, (_UNKNOWN, _CONTROL)), "bos": (1, (_CONTROL,)), "eos": (2, (_CONTROL,))}
# How an added token is found: as it is.
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_UNIGRAM, _BPE = 1, 2
# Fields of ModelProto, TrainerSpec and NormalizerSpec.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _VOCAB_SIZE, _BYTE_FALLBACK, _SPECIAL_IDS = 3, 4, 35, {"unknown": 40, "bos": 41, "eos": 42, "padding": 43}
_NAME, _CHARSMAP, _PREFIX, _FEWER_SPACES, _ESCAPE = 1, 2, 3, 4, 5

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How text is cut, by llama.cpp's name: into single digits first, and by which expression. llama.cpp then looks a word up as a
# whole before it merges only with Llama 3's.
_WORDS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), (False, _LLAMA3)),
    **dict.fromkeys(("gpt-2", "mpt", "olmo"), (False, _GPT2)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), (True, _GPT2)),
}
_WHOLE_WORDS = {"llama-bpe", "llama3", "llama-v3", "falcon3"}


def rebuilt_files(file: Path) -> dict[str, bytes]:
    """`tokenizer_files` of a GGUF file, the first where a model is split. Raises ModelError, OSError."""
    return tokenizer_files(read_header(file).settings, file)


def tokenizer_files(settings: Mapping[str, Any], file: Path) -> dict[str, bytes]:
    """`tokenizer.model` or `tokenizer.json`, and `tokenizer_config.json`, of the settings of a GGUF file.

    Raises ModelError for a file without a tokenizer, a damaged one, and one of a kind that olc does not rebuild.
    """
    found = _settings(settings)
    kind = found.get("model")
    if kind in (None, "none", "no_vocab"):
        raise ModelError(f"{file} has no tokenizer", "use a GGUF file of the model that has one")
    pieces, types = found.get("tokens"), found.get("token_type")
    if not _all(pieces, str) or not pieces:
        raise damaged(file, "has no list of tokenizer.ggml.tokens")
    if types is None:
        types = (1,) * len(pieces)
    if not _all(types, int) or len(types) != len(pieces):
        raise damaged(file, "has no tokenizer.ggml.token_type for each of its tokens")
    if kind in ("llama", "t5"):
        name, content = "tokenizer.model", _model_proto(found, pieces, types, _BPE if kind == "llama" else _UNIGRAM, file)
    elif kind == "gpt2":
        name, content = "tokenizer.json", json.dumps(_tokenizer_json(found, pieces, types, file), ensure_ascii=False).encode()
    else:
        raise ModelError(
            f"{file} has a tokenizer of the kind {brief(kind)}, which olc does not rebuild",
            "use the model's Hugging Face folder",
            code="gguf_tokenizer",
        )
    config = _config(found, pieces, name)
    added = {token: piece for token, piece in enumerate(pieces) if name == "tokenizer.model" and _is_added(found, types, token)}
    if added:  # llama.cpp finds them in a text first, and puts a space in front of what follows one.
        decoder = {str(token): {"content": piece, **_PLAIN, "special": False} for token, piece in added.items()}
        config |= {"legacy": True, "added_tokens_decoder": decoder}
    return {name: content, "tokenizer_config.json": json.dumps(config, indent=2).encode()}


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the tokenizer; of SentencePiece's with the special ids that llama.cpp takes where a file names none."""
    found = {key.removeprefix(_PREFIX_OF_KEYS): value for key, value in settings.items() if key.startswith(_PREFIX_OF_KEYS)}
    types = found.get("token_type")
    for name, (token, kinds) in _USUAL_IDS.items():
        if found.get("model") == "llama" and isinstance(types, tuple) and token < len(types) and types[token] in kinds:
            found.setdefault(f"{name}_token_id", token)
    return found


def _is_added(found: Mapping[str, Any], types: Sequence[int], token: int) -> bool:
    """Whether a piece is a token that was added to a SentencePiece model, which llama.cpp's conversion gives this score."""
    return types[token] == _USER_DEFINED and found["scores"][token] == _SCORE_OF_ADDED


def eos_ids(settings: Mapping[str, Any]) -> frozenset[int]:
    """The ids that end a sequence: of EOS, and of the end of a turn where a file has one."""
    found = _settings(settings)
    named = (found.get(f"{name}_token_id") for name in ("eos", "eot", "eom"))
    return frozenset(token for token in named if type(token) is int and 0 <= token < 1 << 31)


def notes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What a file cannot say of its tokenizer, where that seems to matter."""
    pieces = settings.get("tokenizer.ggml.tokens", ())
    large = len(pieces) >= 10_000  # A small one may lack such pieces for other reasons.
    if settings.get("tokenizer.ggml.model") != "llama" or not large or any("▁▁" in piece for piece in pieces):
        return ()
    if "tokenizer.ggml.remove_extra_whitespaces" in settings:
        return ()
    return (
        "no piece of its tokenizer has two spaces, so that it may have been trained without repeated spaces, as OpenLLaMA's "
        "first release was; GGUF files keep no such rule, and repeated spaces are encoded one by one",
    )


def _all(values: object, kind: type) -> bool:
    return isinstance(values, tuple) and all(type(value) is kind for value in values)


def _token(found: Mapping[str, Any], name: str, pieces: Sequence[str]) -> int | None:
    token = found.get(f"{name}_token_id")
    return token if type(token) is int and 0 <= token < len(pieces) else None


def _adds_bos(found: Mapping[str, Any]) -> bool:
    """As the file says, else as llama.cpp does for its kind."""
    said = found.get("add_bos_token")
    return said if isinstance(said, bool) else found.get("model") == "llama" or found.get("pre") in _WHOLE_WORDS


def _config(found: Mapping[str, Any], pieces: Sequence[str], name: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "add_bos_token": _adds_bos(found),
        "add_eos_token": found.get("add_eos_token") is True,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "LlamaTokenizer" if name == "tokenizer.model" else "PreTrainedTokenizerFast",
    }
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown")):
        token = _token(found, theirs, pieces)
        if token is not None:
            config[f"{ours}_token"] = pieces[token]
    return config


def _model_proto(found: Mapping[str, Any], pieces: Sequence[str], types: Sequence[int], algorithm: int, file: Path) -> bytes:
    """A SentencePiece model. Without a table of the file's own it leaves text as it is, as llama.cpp does."""
    scores: Any = found.get("scores")
    if not _all(scores, float) or len(scores) != len(pieces):
        raise damaged(file, "has no tokenizer.ggml.scores for each of its tokens")
    table = found.get("precompiled_charsmap", ())
    try:
        charsmap = bytes(value & 0xFF for value in table)  # Of bytes with a sign, or without.
    except TypeError as error:
        raise damaged(file, "has a tokenizer.ggml.precompiled_charsmap that is not bytes") from error
    unknown = _token(found, "unknown", pieces)
    if unknown is None:
        unknown = next((token for token, kind in enumerate(types) if kind == _UNKNOWN), None)
    if unknown is None:
        raise damaged(file, "has no unknown token")
    message = bytearray()
    for token, (piece, score, kind) in enumerate(zip(pieces, scores, types, strict=True)):
        # SentencePiece has exactly one unknown piece; some files list others as normal ones. An added token is found before.
        sort = _UNKNOWN if token == unknown else _UNUSED if kind == _UNKNOWN else kind
        sort = _NORMAL if _is_added(found, types, token) else sort
        message += _field(_PIECES, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, sort))
    ids = {name: _token(found, name, pieces) for name in _SPECIAL_IDS} | {"unknown": unknown}
    trainer = _field(_MODEL_TYPE, algorithm) + _field(_VOCAB_SIZE, len(pieces)) + _field(_BYTE_FALLBACK, int(_BYTE in types))
    trainer += b"".join(_field(number, -1 if ids[name] is None else ids[name]) for name, number in _SPECIAL_IDS.items())
    names = {"unknown": 45, "bos": 46, "eos": 47, "padding": 48}
    trainer += b"".join(_field(names[name], pieces[token].encode()) for name, token in ids.items() if token is not None)
    # Extra spaces go where the file says so, and where it has a table (llama.cpp's default with one).
    fewer = found.get("remove_extra_whitespaces", algorithm == _UNIGRAM) is True
    normalizer = _field(_NAME, b"gguf") + (_field(_CHARSMAP, charsmap) if charsmap else b"")
    normalizer += _field(_PREFIX, int(found.get("add_space_prefix", True) is True)) + _field(_FEWER_SPACES, int(fewer))
    return bytes(message) + _field(_TRAINER, trainer) + _field(_NORMALIZER, normalizer + _field(_ESCAPE, 1))


def _field(number: int, value: "bytes | int | None") -> bytes:
    """A protobuf field: bytes with their length, or a whole number."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    assert value is not None
    return _varint(number << 3) + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tokenizer_json(found: Mapping[str, Any], pieces: Sequence[str], types: Sequence[int], file: Path) -> dict[str, Any]:
    """The `tokenizers` library's description of a byte-level BPE."""
    pre, merges = found.get("pre"), found.get("merges")
    if not isinstance(pre, str) or pre not in _WORDS:
        known = (
            f"of the kind {brief(pre)}, which olc does not know"
            if isinstance(pre, str)
            else "whose kind the file does not name"
        )
        raise ModelError(
            f"{file} has a byte-level tokenizer {known} (tokenizer.ggml.pre)",
            "use the model's Hugging Face folder, or a GGUF file that today's llama.cpp made of it",
            code="gguf_tokenizer",
        )
    if not _all(merges, str):
        raise damaged(file, "has no list of tokenizer.ggml.merges")
    digits, expression = _WORDS[pre]
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    single = [{"type": "Digits", "individual_digits": True}] if digits else []
    bos = _token(found, "bos", pieces) if _adds_bos(found) else None
    return {
        "version": "1.0",
        "added_tokens": list(_added(pieces, types)),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*single, split, level]},
        "post_processor": None if bos is None else _template(pieces[bos], bos),
        "decoder": level,
        "model": {
            "type": "BPE",
            "ignore_merges": pre in _WHOLE_WORDS,
            "vocab": {piece: token for token, piece in enumerate(pieces)},
            "merges": list(merges or ()),
        },
    }


def _added(pieces: Sequence[str], types: Sequence[int]) -> Iterator[dict[str, Any]]:
    for token, (piece, kind) in enumerate(zip(pieces, types, strict=True)):
        if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN):
            yield {"id": token, "content": piece, **_PLAIN, "special": kind != _USER_DEFINED}


def _template(piece: str, token: int) -> dict[str, Any]:
    special, text = {"SpecialToken": {"id": piece, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [special, text],
        "pair": [special, text, second],
        "special_tokens": {piece: {"id": piece, "ids": [token], "tokens": [piece]}},
    }
