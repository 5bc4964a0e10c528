"""Text to token ids and back, exactly as the model was trained.

A `tokenizer.model` goes to the SentencePiece library itself. transformers 5 converts it to another implementation
that drops the normaliser and ranks merges differently (every indented line comes out with other ids), and adds no BOS
without a tokenizer_config.json. Here text is only ever text: a literal `<s>` is encoded as characters, and BOS is
added once, by id. Neither torch nor transformers is imported.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from openllama_cli.errors import ModelError, UsageError
from openllama_cli.models import tokenizer_files

# Tokens of context that decide how the next one is written: up to 3 bytes of its character, and one with visible text.
_WINDOW = 8


class Tokenizer(Protocol):
    """A tokenizer of a base model.

    path: the file it was read from; sha256: of that file; kind: e.g. "sentencepiece bpe".
    vocab_size: ids are 0 … vocab_size - 1. The model's own vocabulary may be larger (padding).
    bos_id: the id that starts every sequence, None for the few models without one. eos_ids: any of these ends one.
    unk_id: the id of unknown characters. special_ids: ids without text (BOS, EOS and the like).
    """

    path: Path
    sha256: str
    kind: str
    bos_id: int | None
    unk_id: int | None
    eos_ids: frozenset[int]

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """The ids of `text`, after one BOS if `bos`. Raises UsageError if the text cannot be written in UTF-8."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; BOS, EOS and the like have none. Raises ModelError for an id outside the vocabulary."""
        ...

    def unfinished(self, ids: Sequence[int]) -> int:
        """How many characters at the end of decode(ids), 0 to 3, stand for bytes of a character that is not whole yet.

        They are U+FFFD, and the next id may turn them into that character. All text before them is certain: the text of
        any longer list of ids starts with it.
        """
        ...

    def decode_continuation(self, prefix: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to the certain text of `prefix`.

        decode(prefix + ids) is decode(prefix), without its last unfinished(prefix) characters, and this. The cost depends on
        len(ids), not on len(prefix).
        """
        ...

    def piece(self, token: int) -> str:
        """How the vocabulary spells an id: `▁the`, `<0x0A>`, `</s>`. Raises ModelError if the id is outside it."""
        ...

    def id_of(self, piece: str) -> int | None:
        """The id that the vocabulary spells `piece`, or None."""
        ...


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder (or of a tokenizer file): `tokenizer.model`, else `tokenizer.json`.

    In Meta's download layout tokenizer.model may lie in the parent folder. Raises ModelError naming what is wrong
    with it.
    """
    file = tokenizer_files.locate(path)
    folder = path if path.is_dir() else file.parent
    if file.suffix == ".json":
        from openllama_cli.models.tokenizer_json import JsonTokenizer

        return JsonTokenizer(file, folder)
    return SentencePieceTokenizer(file, folder)


class DecodesByPiece(ABC):
    """Incremental decoding for tokenizers whose text is a concatenation of the texts of their pieces.

    Three things join neighbours: bytes of one character (at most 4 tokens), the space at the very start (dropped
    once, before the first visible text), and a denormaliser that rewrites whole texts (no Llama has one, but a
    SentencePiece model may). So a short window before the new ids is enough, as long as it has text of its own.
    """

    local: bool = True

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""

    @abstractmethod
    def unfinished(self, ids: Sequence[int]) -> int:
        """See `Tokenizer.unfinished`."""

    def decode_continuation(self, prefix: Sequence[int], ids: Sequence[int]) -> str:
        size = _WINDOW if self.local else len(prefix)
        while True:
            window = list(prefix[max(0, len(prefix) - size) :])
            text = self.decode(window)
            before = text[: len(text) - self.unfinished(window)]
            if before or len(window) == len(prefix):
                return self.decode([*window, *ids])[len(before) :]
            size *= 4


class SentencePieceTokenizer(DecodesByPiece):
    """A `tokenizer.model`, encoded and decoded by the SentencePiece library.

    file: the model. folder: the model's folder, whose config.json, generation_config.json and tokenizer_config.json
    may add EOS ids and tokens; tokens that were added after training have an id and a name, but text never becomes
    one of them. Raises ModelError if `file` is not a SentencePiece model.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        data = tokenizer_files.read(file)
        proto = tokenizer_files.parse_model(data, file)
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(data)
            # All of them now: the library would raise for a piece that damage has made invalid UTF-8 when it meets it.
            self._pieces: list[str] = self._processor.id_to_piece(list(range(self._processor.get_piece_size())))
        except (RuntimeError, ValueError) as error:
            raise tokenizer_files.not_a_model(data, file) from error
        self.path = file
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.kind = f"sentencepiece {proto.algorithm}"
        self.local = not proto.denormalizes
        self._size = len(self._pieces)
        self._added: Mapping[int, str] = tokenizer_files.added_pieces(folder, self._size)
        self.bos_id = _known(self._processor.bos_id())
        self.unk_id = _known(self._processor.unk_id())
        own_eos = _known(self._processor.eos_id())
        self.eos_ids = tokenizer_files.configured_ids(folder, "eos_token_id") | ({own_eos} if own_eos is not None else set())

    @property
    def vocab_size(self) -> int:
        return max(self._added, default=self._size - 1) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        control = self._processor.is_control(list(range(self._size)))
        return frozenset(token for token, special in enumerate(control) if special) | self._added.keys()

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        ids: list[int] = self._processor.encode(utf8(text))
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        if self._added:
            # They print nothing, like BOS; an added token between two bytes still separates them, as any special
            # token does.
            stand_in = [] if self.bos_id is None else [self.bos_id]
            ids = [known for token in ids for known in (stand_in if token in self._added else [token])]
        try:
            text: str = self._processor.decode(list(ids))
        except (IndexError, TypeError):
            check_ids(ids, self._size)
            raise
        return text

    def unfinished(self, ids: Sequence[int]) -> int:
        # SentencePiece writes one U+FFFD for each byte that belongs to no character.
        tail = b""
        for token in reversed(ids[-3:]):
            if not (0 <= token < self._size and self._processor.is_byte(token)):
                break
            tail = bytes([int(self._pieces[token][3:5], 16)]) + tail
        return unfinished_bytes(tail)

    def piece(self, token: int) -> str:
        if token in self._added:
            return self._added[token]
        check_ids([token], self._size)
        return self._pieces[token]

    def id_of(self, piece: str) -> int | None:
        token: int = self._processor.piece_to_id(piece)
        if 0 <= token < self._size and self._pieces[token] == piece:
            return token
        return next((token for token, text in self._added.items() if text == piece), None)


def _known(token: int) -> int | None:
    """SentencePiece gives -1 for a special piece that a model does not have."""
    return token if token >= 0 else None


def utf8(text: str) -> bytes:
    """The text as UTF-8. Raises UsageError for lone surrogates: a byte that was no UTF-8 on a command line becomes
    one.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        what = f"the byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"the lone surrogate U+{code:04X}"
        raise UsageError(
            f"the text is not valid UTF-8: {what} at character {error.start + 1}",
            "give the text in UTF-8; `iconv -f latin1 -t utf-8 FILE` converts an older file",
            code="invalid_unicode",
        ) from None


def check_ids(ids: Sequence[int], size: int) -> None:
    """Raises ModelError for the first id that is not in 0 … size - 1."""
    for position, token in enumerate(ids):
        if not 0 <= token < size:
            raise ModelError(
                f"token id {token} (number {position + 1} of {len(ids)}) is outside the tokenizer's 0 to {size - 1}",
                "use the tokenizer files that belong to this model",
                code="token_id_out_of_range",
            )


def unfinished_bytes(tail: bytes) -> int:
    """How many bytes at the end of `tail` begin a UTF-8 character without ending it: 0 to 3."""
    for length, byte in enumerate(reversed(tail[-3:]), start=1):
        if byte & 0xC0 == 0x80:  # a continuation byte: its first byte is further left
            continue
        needed = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1
        return length if needed > length else 0
    return 0
