"""Models that come with a `tokenizer.json` only, read by the `tokenizers` library.

Two kinds are common among Llama-architecture models: SentencePiece's vocabulary with byte fallback (`<0x0A>` pieces),
and byte-level BPE (Llama 3), whose pieces are bytes written with stand-in letters.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError, first_line
from openllama_cli.models.model_files import damaged, fetch_again, read, read_object
from openllama_cli.models.stand_ins import refuse_stand_in
from openllama_cli.models.tokenizer.base import Tokenizer, check_ids, unfinished_bytes
from openllama_cli.models.tokenizer.files import configured_ids, eos_ids


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json`. Special tokens written in the text stay text, and BOS is added once, by id.

    Raises ModelError if the file cannot be read by the `tokenizers` library.
    """

    def __init__(self, file: Path, folder: Path, config_json: Mapping[str, Any] | None = None) -> None:
        from tokenizers import Tokenizer as Library

        data = read(file)
        refuse_stand_in(file, data[:4096], "a tokenizer.json")
        if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            raise damaged(file, f"is not a tokenizer.json ({len(data):,} bytes, no JSON object)")
        try:
            self._tokenizer = Library.from_str(data.decode())
        except Exception as error:  # the library raises bare Exception
            raise damaged(file, f"is not a tokenizer.json: {first_line(error)}") from error
        # Text is text: "<s>" typed by a user is three characters, not the start of a sequence.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.path = file
        self.sha256 = hashlib.sha256(data).hexdigest()
        description: dict[str, Any] = json.loads(data)
        model = description.get("model") or {}
        self.kind = f"tokenizers {str(model.get('type', 'unknown')).lower()}"
        decoder = json.dumps(description.get("decoder"))
        self.byte_level = '"ByteLevel"' in decoder
        self._byte_fallback = '"ByteFallback"' in decoder
        self._special = frozenset(token for token, added in self._tokenizer.get_added_tokens_decoder().items() if added.special)
        self.bos_id = self._find_bos(folder, config_json)
        self.unk_id = self._id(model.get("unk_token") or _special_text(folder, "unk_token"))
        self.eos_ids = eos_ids(folder, config_json, self._id(_special_text(folder, "eos_token")))

    @property
    def vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special

    def pieceless(self, rows: int) -> frozenset[int]:
        return frozenset(range(rows)).difference(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def _encode(self, text: bytes) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text.decode(), add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [self.piece(token) for token in ids if token not in self._special]
        if self._byte_fallback:
            return self._tokenizer.decoder.decode(_join_bytes(pieces)) if pieces else ""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def unfinished(self, ids: Sequence[int]) -> int:
        missing = unfinished_bytes(b"".join(self._piece_bytes(token) for token in ids[-3:]))
        # The library's byte-level decoder writes one U+FFFD for all of them, `_join_bytes` one for each.
        return min(missing, 1) if self.byte_level else missing

    def piece(self, token: int) -> str:
        piece: str | None = self._tokenizer.id_to_token(token) if 0 <= token < 2**32 else None
        if piece is None:
            check_ids([token], self.vocab_size)
            raise ModelError(f"token id {token} has no piece in {self.path}", fetch_again(self.path))
        return piece

    def _piece_bytes(self, token: int) -> bytes:
        """The bytes of a token as far as they could belong to a character that is incomplete; b"|" stands for complete text."""
        if token in self._special:
            return b"|"
        piece = self.piece(token)
        if self._byte_fallback:
            value = _byte_value(piece)
            return b"|" if value is None else bytes([value])
        known = self.byte_level and all(letter in _STAND_INS for letter in piece)
        return bytes(_STAND_INS[letter] for letter in piece) if known else b"|"

    def _find_bos(self, folder: Path, config_json: Mapping[str, Any] | None) -> int | None:
        """What the tokenizer's own files call BOS; else what its post-processor puts first; else config.json's."""
        named = self._id(_special_text(folder, "bos_token"))
        if named is not None:
            return named
        first = self._tokenizer.encode("", add_special_tokens=True).ids[:1]
        if first:
            return int(first[0])
        configured = configured_ids(folder, "bos_token_id", config_json) & self._special
        return min(configured, default=None)

    def _id(self, piece: object) -> int | None:
        return self._tokenizer.token_to_id(piece) if isinstance(piece, str) else None


def _special_text(folder: Path, name: str) -> object:
    """The text of "bos_token" or "eos_token": a string, or an object with the string as its content."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        value = read_object(folder / file).get(name)
        if value is not None:
            return value.get("content") if isinstance(value, dict) else value
    return None


def _byte_value(piece: str) -> int | None:
    return int(piece[3:5], 16) if re.fullmatch("<0x[0-9A-Fa-f]{2}>", piece) else None


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("olc-replace-each-byte", _replace_each_byte)


def _join_bytes(pieces: Sequence[str]) -> list[str]:
    """Byte pieces put together into characters, each byte that belongs to none replaced by U+FFFD.

    The library's own ByteFallback gives up on a run of bytes when the last character is incomplete, so text that
    has been printed would change under later tokens.
    """
    joined: list[str] = []
    run = bytearray()
    for piece in [*pieces, ""]:
        value = _byte_value(piece)
        if value is not None:
            run.append(value)
            continue
        joined += run.decode(errors="olc-replace-each-byte")
        run.clear()
        joined.append(piece)
    return joined


def _byte_level_stand_ins() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the rest for the letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(rest)}


_STAND_INS = _byte_level_stand_ins()
