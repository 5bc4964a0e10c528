"""Models that come with a `tokenizer.json` only, read by the `tokenizers` library.

Two kinds are common among Llama-architecture models: SentencePiece's vocabulary with byte fallback (`<0x0A>` pieces),
and byte-level BPE (Llama 3), whose pieces are bytes written with stand-in letters.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError, OlcError, first_line
from openllama_cli.models.model_files import damaged, fetch_again
from openllama_cli.models.stand_ins import refuse_stand_in
from openllama_cli.models.tokenizer.base import Tokenizer, check_ids, unfinished_bytes
from openllama_cli.models.tokenizer.byte_pieces import byte_level_bytes, fallback_byte, join_bytes
from openllama_cli.models.tokenizer.components import Description, describe, unreadable
from openllama_cli.models.tokenizer.files import Surroundings
from openllama_cli.models.tokenizer.library import failures_as, within, without_panic_messages
from openllama_cli.models.tokenizer.settings import Settings, beyond, refuse_clean_up

# A text takes a millisecond or so; only a regular expression that backtracks takes longer.
_SECONDS, _CHARACTERS_PER_SECOND = 10.0, 100_000
# The largest published ones have 262,144 pieces and half a million merges, written as lists of two.
_MOST = {b'":': 600_000, b"[": 1_200_000, b"{": 300_000, b",": 3_000_000}


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json`. Special tokens written in the text stay text, and BOS is added once, by id, where its post-processor
    puts one; tokens that were added and are not special are found by the library, by their flags.

    file: it, or what it was made of. data: its content. beside: what the model's other files say.
    Raises ModelError if it cannot be read by the `tokenizers` library, or has what `components` does not know.
    """

    def __init__(self, file: Path, data: bytes, beside: Surroundings) -> None:
        self.path = file
        self.sha256 = hashlib.sha256(data).hexdigest()
        about = _describe(data, file)
        settings, rows = beside.settings, beside.rows
        with without_panic_messages(), failures_as(lambda error: unreadable(error, file)):
            self._tokenizer = _load(data, settings, file, rows)
        model = type(self._tokenizer.model).__name__
        refuse_clean_up(settings, model, beside.folder)
        self.kind = f"tokenizers {model.lower()}"
        self.byte_level = "ByteLevel" in about.decoder
        self._byte_fallback = "ByteFallback" in about.decoder
        self._searches = about.searches
        decoder = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(token for token, added in decoder.items() if added.special)
        self.bos_id = _bos(about, file)
        self.unk_id = self._id(about.unk or settings.named.get("unk_token"))
        self.eos_ids = beside.all_eos_ids(self._id(settings.named.get("eos_token")))
        self.notes = _notes(about, settings) + beyond(settings, rows, [added.content for added in decoder.values()])

    @cached_property
    def vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special

    @property
    def highest_text_id(self) -> int:
        return max(set(self._tokenizer.get_vocab(with_added_tokens=True).values()) - self._special, default=0)

    def pieceless(self, rows: int) -> frozenset[int]:
        return frozenset(range(rows)).difference(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def _encode(self, text: bytes) -> list[int]:
        ids: list[int] = self._encoding(text.decode()).ids
        return ids

    def _spans(self, text: str) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = self._encoding(text).offsets
        return spans

    def _encoding(self, text: str) -> Any:
        def failure(error: BaseException) -> OlcError:
            return ModelError(
                f"{self.path} cannot encode this text: {first_line(error)}",
                "shorten the text, or use another model: a pattern of this tokenizer backtracks too far",
                code="tokenizer_failed",
            )

        with failures_as(failure):
            if not self._searches:
                return self._tokenizer.encode(text, add_special_tokens=False)
            # Of a batch, because the library holds Python's lock while it encodes a single text.
            seconds = _SECONDS + len(text) / _CHARACTERS_PER_SECOND
            return within(seconds, lambda: self._tokenizer.encode_batch([text], add_special_tokens=False)[0])

    def decode(self, ids: Sequence[int]) -> str:
        if self._byte_fallback:
            pieces = join_bytes([None if token in self._special else self.piece(token) for token in ids])
            with failures_as(self._cannot_decode):
                text: str = self._tokenizer.decoder.decode(pieces) if pieces else ""
            return text
        for token in ids:
            self.piece(token)
        runs = self._between_special(ids) if self.byte_level else [list(ids)]
        with failures_as(self._cannot_decode):
            texts: list[str] = [self._tokenizer.decode(run, skip_special_tokens=True) for run in runs]
        return "".join(texts)

    def unfinished(self, ids: Sequence[int]) -> int:
        tail = b"".join(self.token_bytes(token) or b"|" for token in ids[-3:])
        missing = unfinished_bytes(tail)
        # The library's byte-level decoder writes one U+FFFD for all of them, `join_bytes` one for each.
        return min(missing, 1) if self.byte_level else missing

    def piece(self, token: int) -> str:
        piece: str | None = self._tokenizer.id_to_token(token) if 0 <= token < 2**32 else None
        if piece is None:
            check_ids([token], self.vocab_size)
            raise ModelError(f"token id {token} has no piece in {self.path}", fetch_again(self.path))
        return piece

    def token_bytes(self, token: int) -> bytes | None:
        if token in self._special:
            return None
        piece = self.piece(token)
        if self._byte_fallback:
            value = fallback_byte(piece)
            return None if value is None else bytes([value])
        return byte_level_bytes(piece) if self.byte_level else None

    def _inner_text(self, token: int) -> str:
        if self.byte_level or self._anchor is None:
            return self.piece(token)
        before, text = self.decode([self._anchor]), self.decode([self._anchor, token])
        return text[len(before) :] if text.startswith(before) else self.piece(token)

    @cached_property
    def _anchor(self) -> int | None:
        """A token whose text shows how the next one is joined to it."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        words = (token for piece, token in vocabulary.items() if piece.isalpha() and piece.isascii())
        return min(words, default=None)

    def _between_special(self, ids: Sequence[int]) -> list[list[int]]:
        """The ids in runs without special tokens, which separate the bytes around them."""
        runs: list[list[int]] = [[]]
        for token in ids:
            if token in self._special:
                runs.append([])
            else:
                runs[-1].append(token)
        return runs

    def _cannot_decode(self, error: BaseException) -> OlcError:
        return ModelError(f"{self.path} cannot decode the model's tokens: {first_line(error)}", fetch_again(self.path))

    def _id(self, piece: object) -> int | None:
        return self._tokenizer.token_to_id(piece) if isinstance(piece, str) else None


def _describe(data: bytes, file: Path) -> Description:
    refuse_stand_in(file, data[:4096], "a tokenizer.json")
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        raise damaged(file, f"is not a tokenizer.json ({len(data):,} bytes, no JSON object)")
    if any(data.count(mark) > most for mark, most in _MOST.items()):
        raise damaged(file, "has more names and values than any tokenizer.json")
    with failures_as(lambda error: damaged(file, f"is not a tokenizer.json: {first_line(error)}")):
        return describe(json.loads(data.decode("utf-8-sig")), file)


def _load(data: bytes, settings: Settings, file: Path, rows: int) -> Any:
    """The library's tokenizer, for inference: without dropout, truncation and padding, and with the tokens that
    tokenizer_config.json adds, as transformers adds them, if the embedding has rows for them. Raises what the library raises.
    """
    from tokenizers import AddedToken as Added
    from tokenizers import Tokenizer as Library

    tokenizer = Library.from_str(data.decode("utf-8-sig"))
    # Text is text: "<s>" typed by a user is three characters, not the start of a sequence.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    # All in one call: the library goes over all added tokens in each.
    new: dict[str, Any] = {}
    ids: dict[str, int] = {}
    following = tokenizer.get_vocab_size()
    for one in settings.added:
        if one.content in known or not one.content or one.id >= rows:
            continue
        place = ids.get(one.content, tokenizer.token_to_id(one.content))
        if (following if place is None else place) == one.id:
            new[one.content] = Added(one.content, **one.flags)
            ids[one.content] = one.id
            following += place is None
        elif not one.special:  # A special token never comes from text, so its id matters only to who knows it.
            raise ModelError(
                f"{file.parent}: the added token {one.content!r} has the id {one.id} in the configuration, but would get "
                f"{following if place is None else place} in {file.name}",
                f"give both the same id, or remove it from {file.parent / 'tokenizer_config.json'}",
            )
    tokenizer.add_tokens(list(new.values()))
    named = sorted({*settings.named.values(), *settings.extra} - known)
    tokenizer.add_special_tokens([Added(text, special=True) for text in named if tokenizer.token_to_id(text) is not None])
    return tokenizer


def _bos(about: Description, file: Path) -> int | None:
    """What the post-processor puts in front of a text: AutoTokenizer adds no other BOS."""
    if len(about.before) > 1:
        raise ModelError(
            f"{file} has a post-processor that puts {len(about.before)} tokens in front of a text; olc knows one, BOS",
            "use a model whose texts start with one token or none",
        )
    return about.before[0] if about.before else None


def _notes(about: Description, settings: Settings) -> tuple[str, ...]:
    notes = []
    if about.after:
        notes.append("its post-processor ends every text with EOS; olc leaves that out, so that a completion can follow")
    if settings.add_bos is not None and settings.add_bos != bool(about.before):
        wanted, does = ("true", "puts none") if settings.add_bos else ("false", "puts one in front")
        notes.append(
            f"add_bos_token is {wanted}, but the post-processor of tokenizer.json {does}; transformers and olc follow it"
        )
    return tuple(notes)
