"""What every tokenizer of a base model can do, incremental decoding among it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from openllama_cli.errors import ModelError, UsageError
from openllama_cli.models.tokenizer.byte_pieces import spelled

# Tokens of context that decide how the next one is written: up to 3 bytes of its character, and one with visible text.
_WINDOW = 8


class Tokenizer(ABC):
    """A tokenizer of a base model, whose text is a concatenation of the texts of its pieces.

    path: the file it was read from; sha256: of that file; kind: e.g. "sentencepiece bpe".
    vocab_size: ids are 0 … vocab_size - 1. The model's own vocabulary may be larger (padding).
    bos_id: the id that starts every sequence, None for the few models without one. eos_ids: any of these ends one.
    unk_id: the id of unknown characters. special_ids: ids without text (BOS, EOS and the like).
    local: the text of a token depends on its neighbors only, not on all tokens before it.
    notes: what its files ask for and olc leaves out, a sentence each.
    """

    path: Path
    sha256: str
    kind: str
    bos_id: int | None
    unk_id: int | None
    eos_ids: frozenset[int]
    local: bool = True
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def vocab_size(self) -> int: ...

    @property
    @abstractmethod
    def special_ids(self) -> frozenset[int]: ...

    @property
    def highest_text_id(self) -> int:
        """The highest id that text can become."""
        special = self.special_ids
        return next((token for token in range(self.vocab_size - 1, -1, -1) if token not in special), 0)

    def pieceless(self, rows: int) -> frozenset[int]:
        """The ids below `rows` that no piece has: padded rows of an embedding, and ids left out between added tokens."""
        return frozenset(range(self.vocab_size, rows))

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """The ids of `text`, after one BOS if `bos`. Raises UsageError if the text cannot be written in UTF-8."""
        ids = self._encode(utf8(text))
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    @abstractmethod
    def _encode(self, text: bytes) -> list[int]:
        """The ids of a text in UTF-8, without BOS."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each id of `encode(text)` stands in the text: its first character, and behind its last.

        From each start to the next, and from the last to the end, lies the text of a token: joined they are the text, also
        where a normalizer changes it. BOS has none. A character of several tokens belongs to the one that completes it; spaces
        that are dropped belong to the token that follows. Raises UsageError as `encode`.
        """
        utf8(text)
        found = [] if self.bos_id is None else [(0, 0)]
        start = behind = 0
        for begin, end in self._spans(text):
            # Libraries leave out spaces that a token begins with, and give each byte of a character its whole span.
            start = max(start, min(begin, behind))
            behind = max(behind, end)
            found.append((start, behind))
        return found

    @abstractmethod
    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where each id of a text stands in it, as the library tells it, without BOS."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; BOS, EOS and the like have none. Raises ModelError for an id outside the vocabulary."""

    @abstractmethod
    def unfinished(self, ids: Sequence[int]) -> int:
        """How many characters at the end of decode(ids), 0 to 3, stand for bytes of an incomplete character.

        They are U+FFFD, and the next id may turn them into that character. All text before them is certain: the text of
        any longer list of ids starts with it.
        """

    @abstractmethod
    def piece(self, token: int) -> str:
        """How the vocabulary spells an id: `▁the`, `<0x0A>`, `</s>`. Raises ModelError if the id is outside it."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes | None:
        """The bytes that an id stands for, which may be part of a character; None for one that has text of its own, or none."""

    @abstractmethod
    def _inner_text(self, token: int) -> str:
        """The text of an id that stands for no bytes, in the middle of a text."""

    def text(self, token: int) -> str:
        r"""An id as OpenAI spells it: its text within a line (` the`), ``bytes:\xe6`` for a part of a character, `</s>`.

        Raises ModelError if it is outside the vocabulary.
        """
        if token in self.special_ids:
            return self.piece(token)
        data = self.token_bytes(token)
        return self._inner_text(token) if data is None else spelled(data)

    def decode_continuation(self, prefix: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to the certain text of `prefix`.

        decode(prefix + ids) is decode(prefix), without its last unfinished(prefix) characters, and this. The cost depends on
        len(ids), not on len(prefix): three things join neighbors, the bytes of one character (at most 4 tokens), the space at
        the very start (dropped once, before the first visible text), and a denormalizer that rewrites complete texts (no Llama
        has one, but a SentencePiece model may; it is not `local`). So a short window before the new ids is enough, as long as
        it has text of its own.
        """
        size = _WINDOW if self.local else len(prefix)
        while True:
            window = list(prefix[max(0, len(prefix) - size) :])
            text = self.decode(window)
            before = text[: len(text) - self.unfinished(window)]
            if before or len(window) == len(prefix):
                return self.decode([*window, *ids])[len(before) :]
            size *= 4


def utf8(text: str) -> bytes:
    """The text as UTF-8. Raises UsageError for lone surrogates, which bytes of a command line become that are not UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        what = f"the byte 0x{code - 0xDC00:02X}" if 0xDC80 <= code <= 0xDCFF else f"the lone surrogate U+{code:04X}"
        raise UsageError(
            f"the text is not valid UTF-8: {what} at character {error.start + 1}",
            "use UTF-8; `iconv -f latin1 -t utf-8 FILE` converts a Latin-1 file",
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
