"""Text to token ids and back, exactly as the model was trained.

A `tokenizer.model` goes to the SentencePiece library itself. transformers 5 converts it to another implementation
that drops the normalizer and ranks merges differently (every indented line comes out with other ids), and adds no BOS
without a tokenizer_config.json. Here text is only ever text: a literal `<s>` is encoded as characters, and BOS is
added once, by id. Neither torch nor transformers is imported.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.tokenizer import files as tokenizer_files
from openllama_cli.models.tokenizer.base import Tokenizer, check_ids, unfinished_bytes
from openllama_cli.models.tokenizer.files import Surroundings
from openllama_cli.models.tokenizer.settings import AddedToken, Settings, beyond, refuse_clean_up, refuse_shifted

# ModelProto.normalizer_spec with add_dummy_prefix (3), and with remove_extra_whitespaces (4), false. Protobuf merges a message
# that comes twice, so that behind a model these change that setting alone.
_NO_PREFIX, _NO_PREFIX_ALL_SPACES = b"\x1a\x02\x18\x00", b"\x1a\x04\x18\x00\x20\x00"


class SentencePieceTokenizer(Tokenizer):
    """A `tokenizer.model`, encoded and decoded by the SentencePiece library.

    file: the model, or what it was made of. data: the model. beside: what the model's other files say, which may add EOS ids
    and tokens. Tokens that were added after training are found in a text unless they are special; special ones have an id and a
    name, but text never becomes one of them.
    Raises ModelError if `data` is not a SentencePiece model, or its configuration asks for what olc does not do.
    """

    def __init__(self, file: Path, data: bytes, beside: Surroundings) -> None:
        algorithm, denormalizes = tokenizer_files.parse_model(data, file)
        settings, folder, rows = beside.settings, beside.folder, beside.rows
        # transformers makes a BPE of every tokenizer.model of a Llama.
        refuse_clean_up(settings, "BPE", folder)
        refuse_shifted(settings, folder)
        self._data = data if settings.add_prefix_space is not False else data + _NO_PREFIX
        self._processor = _processor(self._data, file)
        try:
            # All of them now: the library would raise for a piece that damage has made invalid UTF-8 when it meets it.
            self._pieces: list[str] = self._processor.id_to_piece(list(range(self._processor.get_piece_size())))
        except (RuntimeError, ValueError) as error:
            raise tokenizer_files.not_a_model(data, file) from error
        self.path = file
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.kind = f"sentencepiece {algorithm}"
        self.local = not denormalizes
        self._size = len(self._pieces)
        self._folder = folder
        self._added = self._added_tokens(settings, rows)
        self.notes = beyond(settings, rows)
        self._names = {token: text for token, text in settings.names.items() if token >= self._size}
        self._names |= {one.id: one.content for one in settings.added if one.id >= self._size}
        self._legacy = settings.legacy if settings.legacy is not None else settings.tokenizer_class is None
        self._bos = _known(self._processor.bos_id())
        self.bos_id = self._bos if _adds_bos(folder, settings) else None
        self.unk_id = _known(self._processor.unk_id())
        self.eos_ids = beside.all_eos_ids(_known(self._processor.eos_id()))
        if settings.add_eos:
            self.notes += ("add_eos_token is true; olc leaves EOS out after a prompt, so that a completion can follow",)

    @property
    def vocab_size(self) -> int:
        return max(self._names, default=self._size - 1) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        control = self._processor.is_control(list(range(self._size)))
        return frozenset(token for token, special in enumerate(control) if special) | (self._names.keys() - self._added.keys())

    @property
    def highest_text_id(self) -> int:
        return max({*range(self._size), *self._added} - self.special_ids, default=0)

    def pieceless(self, rows: int) -> frozenset[int]:
        return frozenset(range(self._size, rows)) - self._names.keys()

    def _encode(self, text: bytes) -> list[int]:
        ids: list[int] = list(self._encode_around_added(text.decode())) if self._added else self._processor.encode(text)
        return ids

    def _spans(self, text: str) -> list[tuple[int, int]]:
        if not self._added:
            return _surfaces(self._processor, text)
        spans: list[tuple[int, int]] = []
        for place, (start, end, token) in enumerate(self._finder.split(text)):
            if token is not None:
                spans.append((start, end))
            else:
                found = _surfaces(self._processor if place == 0 else self._after_added, text[start:end])
                spans += [(start + first, start + last) for first, last in found]
        return spans

    def decode(self, ids: Sequence[int]) -> str:
        parts = self._between_added(ids) if self._added else [list(ids)]
        # A special token that was added separates the bytes around it, as BOS does.
        stand_in = [] if self._bos is None else [self._bos]
        text = ""
        for place, part in enumerate(parts):
            if isinstance(part, int):
                text += self._added[part].content
                continue
            known = [known for token in part for known in (stand_in if token in self._names else [token])]
            processor = self._processor if place == 0 else self._inner
            try:
                text += processor.decode(known)
            except (IndexError, TypeError):
                check_ids(part, self._size)
                raise
        return text

    def unfinished(self, ids: Sequence[int]) -> int:
        # SentencePiece writes one U+FFFD for each byte that belongs to no character.
        return unfinished_bytes(b"".join(self.token_bytes(token) or b"|" for token in ids[-3:]))

    def piece(self, token: int) -> str:
        if token in self._names:
            return self._names[token]
        check_ids([token], self._size)
        return self._pieces[token]

    def token_bytes(self, token: int) -> bytes | None:
        if not (0 <= token < self._size and self._processor.is_byte(token)):
            return None
        return bytes([int(self._pieces[token][3:5], 16)])

    def _inner_text(self, token: int) -> str:
        return self.piece(token).replace("▁", " ")

    def _added_tokens(self, settings: Settings, rows: int) -> dict[int, AddedToken]:
        """Those that text can become. rows: of the embedding: an id beyond them is only a name."""
        added = [one for one in settings.added if one.content and not one.special and one.id < rows]
        for one in added:
            if one.id < self._size and self._pieces[one.id] != one.content:
                piece = self._pieces[one.id]
                raise ModelError(
                    f"{self._folder}: the added token {one.content!r} has the id {one.id}, {piece!r} in {self.path.name}",
                    "remove it from tokenizer_config.json, or use the tokenizer files that belong together",
                )
        # SentencePiece itself finds user-defined symbols; control and byte pieces and <unk> never come from text.
        normal = tokenizer_files.normal_pieces(self._data) if any(one.id < self._size for one in added) else []
        return {one.id: one for one in added if one.id >= self._size or normal[one.id]}

    @cached_property
    def _finder(self) -> Any:
        from openllama_cli.models.tokenizer.added_tokens import AddedTokens

        return AddedTokens(list(self._added.values()), self._folder)

    @cached_property
    def _after_added(self) -> Any:
        """Encodes what follows an added token: no space is put in front."""
        return self._processor if self._legacy else _processor(self._data + _NO_PREFIX, self.path)

    @cached_property
    def _inner(self) -> Any:
        """Decodes what follows an added token: no space is dropped."""
        return _processor(self._data + _NO_PREFIX_ALL_SPACES, self.path)

    def _encode_around_added(self, text: str) -> Iterator[int]:
        for place, (start, end, token) in enumerate(self._finder.split(text)):
            if token is not None:
                yield token
            else:
                yield from (self._processor if place == 0 else self._after_added).encode(text[start:end].encode())

    def _between_added(self, ids: Sequence[int]) -> list[list[int] | int]:
        parts: list[list[int] | int] = [[]]
        for token in ids:
            last = parts[-1]
            if token in self._added:
                parts.append(token)
            elif isinstance(last, list):
                last.append(token)
            else:
                parts.append([token])
        return parts


def _processor(data: bytes, file: Path) -> Any:
    import sentencepiece

    sentencepiece.set_min_log_level(3)  # Else it writes to stderr, of a piece that is a null character, for example.
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except (RuntimeError, ValueError) as error:
        raise tokenizer_files.not_a_model(data, file) from error
    return processor


def _surfaces(processor: Any, text: str) -> list[tuple[int, int]]:
    """Where the pieces of a text stand in it, in characters."""
    counts_bytes = hasattr(processor, "encode_as_proto")  # As SentencePiece does since 0.2.2; 0.2.1 counts characters.
    encode = processor.encode_as_proto if counts_bytes else processor.encode_as_immutable_proto
    found = [(piece.begin, piece.end) for piece in encode(text.encode()).pieces]
    if not counts_bytes or text.isascii():
        return found
    places = [place for place, character in enumerate(text) for _ in range(len(character.encode()))]  # Of each byte.
    places.append(len(text))
    return [(places[begin], places[end]) for begin, end in found]


def _adds_bos(folder: Path, settings: Settings) -> bool:
    """Whether a text starts with BOS: as add_bos_token says, or else a tokenizer.json beside the model, which transformers
    reads in its place. Without either it does, as LlamaTokenizer documents: most Llamas write nonsense without BOS.
    """
    beside = folder / "tokenizer.json"
    if settings.add_bos is not None or not beside.is_file():
        return settings.add_bos is not False
    from openllama_cli.models.tokenizer.components import ids_before

    return ids_before(beside) != ()


def _known(token: int) -> int | None:
    """SentencePiece gives -1 for a special piece that a model does not have."""
    return token if token >= 0 else None
