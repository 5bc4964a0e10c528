"""Text to token ids and back, exactly as the model was trained.

A `tokenizer.model` goes to the SentencePiece library itself. transformers 5 converts it to another implementation
that drops the normalizer and ranks merges differently (every indented line comes out with other ids), and adds no BOS
without a tokenizer_config.json. Here text is only ever text: a literal `<s>` is encoded as characters, and BOS is
added once, by id. Neither torch nor transformers is imported.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from openllama_cli.models.model_files import read
from openllama_cli.models.tokenizer import files as tokenizer_files
from openllama_cli.models.tokenizer.base import Tokenizer, check_ids, unfinished_bytes


class SentencePieceTokenizer(Tokenizer):
    """A `tokenizer.model`, encoded and decoded by the SentencePiece library.

    file: the model. folder: the model's folder, whose config.json (config_json, if it was read already),
    generation_config.json and tokenizer_config.json may add EOS ids and tokens; tokens that were added after training have
    an id and a name, but text never becomes one of them. Raises ModelError if `file` is not a SentencePiece model.
    """

    def __init__(self, file: Path, folder: Path, config_json: Mapping[str, Any] | None = None) -> None:
        from sentencepiece import SentencePieceProcessor

        data = read(file)
        algorithm, denormalizes = tokenizer_files.parse_model(data, file)
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(data)
            # All of them now: the library would raise for a piece that damage has made invalid UTF-8 when it meets it.
            self._pieces: list[str] = self._processor.id_to_piece(list(range(self._processor.get_piece_size())))
        except (RuntimeError, ValueError) as error:
            raise tokenizer_files.not_a_model(data, file) from error
        self.path = file
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.kind = f"sentencepiece {algorithm}"
        self.local = not denormalizes
        self._size = len(self._pieces)
        self._added: Mapping[int, str] = tokenizer_files.added_pieces(folder, self._size)
        self.bos_id = _known(self._processor.bos_id())
        self.unk_id = _known(self._processor.unk_id())
        self.eos_ids = tokenizer_files.eos_ids(folder, config_json, _known(self._processor.eos_id()))

    @property
    def vocab_size(self) -> int:
        return max(self._added, default=self._size - 1) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        control = self._processor.is_control(list(range(self._size)))
        return frozenset(token for token, special in enumerate(control) if special) | self._added.keys()

    def pieceless(self, rows: int) -> frozenset[int]:
        return frozenset(range(self._size, rows)) - self._added.keys()

    def _encode(self, text: bytes) -> list[int]:
        ids: list[int] = self._processor.encode(text)
        return ids

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


def _known(token: int) -> int | None:
    """SentencePiece gives -1 for a special piece that a model does not have."""
    return token if token >= 0 else None
