"""Token healing (`--heal`): the tokens of the prompt's last word go back to the model, which has to begin with their text.

A prompt that is cut in a word, or behind a space, ends in tokens that rarely stood there in training. Backing up over them, and
drawing anew among the tokens whose text begins with theirs or is a beginning of it, lets the model choose the tokens of the
whole word. As in guidance ("The Art of Prompt Design: Prompt Boundaries and Token Healing", Lundberg 2023), which backs up one
token; but the beginning of a word may be several, where the word is one.
"""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from openllama_cli.errors import ModelError
from openllama_cli.generation.decode.request import Request
from openllama_cli.models.tokenizer.base import Tokenizer

# Tokens that are backed up at the most.
_MOST = 8
_KNOWN: weakref.WeakKeyDictionary[Tokenizer, list[bytes]] = weakref.WeakKeyDictionary()


class Healed(NamedTuple):
    """What was taken from a prompt's end: so many tokens, and their text in characters."""

    tokens: int = 0
    characters: int = 0


NOTHING = Healed()


def heal(request: Request, tokenizer: Tokenizer) -> tuple[Request, Healed]:
    """The request without the tokens of its prompt's last word, bound to begin with their text.

    Unchanged where nothing stands before them, or the last one has no text or leaves a character incomplete.
    """
    count = _last_word(request.tokens, tokenizer)
    before, last = request.tokens[: len(request.tokens) - count], request.tokens[len(request.tokens) - count :]
    if not count or not before or tokenizer.unfinished(request.tokens):
        return request, NOTHING
    healing = Healing(tokenizer, b"".join(_bytes_of(tokenizer, last)))
    healed = Healed(count, len(tokenizer.decode_continuation(before, last)))
    return replace(request, tokens=before, constraints=(*request.constraints, healing)), healed


def _last_word(tokens: Sequence[int], tokenizer: Tokenizer) -> int:
    """How many tokens at the end are backed up: one, or those of a word in letters that have a case.

    0 if the last has no text.
    """
    count = 0
    for token in reversed(tokens[-_MOST:]):
        (data,) = _bytes_of(tokenizer, [token])
        text = data.decode(errors="replace")
        if count and not (text and _is_letter(text[-1])):
            break
        count += bool(text)
        if not text or not _is_letter(text[0]):
            break
    return count


def _is_letter(character: str) -> bool:
    return character.lower() != character.upper()


class Healing:
    """A `Constraint`: the tokens' bytes, joined, begin with some text, or are a beginning of it as long as they are fewer."""

    def __init__(self, tokenizer: Tokenizer, text: bytes) -> None:
        self._tokenizer = tokenizer
        # What is still to come, before each token and now.
        self._left = [text]

    def mask(self, vocabulary: int) -> torch.Tensor | None:
        left = self._left[-1]
        if not left:
            return None
        known = _vocabulary(self._tokenizer)[:vocabulary]
        fits = [bool(data) and (data.startswith(left) or left.startswith(data)) for data in known]
        return torch.tensor(fits + [False] * (vocabulary - len(fits)))

    def push(self, token: int) -> None:
        left = self._left[-1]
        self._left.append(left[len(_bytes_of(self._tokenizer, [token])[0]) :] if left else left)

    @property
    def finished(self) -> bool:
        return False

    def take_back(self, count: int) -> None:
        del self._left[len(self._left) - count :]


def _vocabulary(tokenizer: Tokenizer) -> list[bytes]:
    if tokenizer not in _KNOWN:
        _KNOWN[tokenizer] = _bytes_of(tokenizer, range(tokenizer.vocab_size))
    return _KNOWN[tokenizer]


def _bytes_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[bytes]:
    """The bytes of tokens within a text; empty for those that have no text."""
    found = []
    for token in tokens:
        data: bytes | None = b""
        if token not in tokenizer.special_ids:
            try:
                data = tokenizer.token_bytes(token)
                data = tokenizer.text(token).encode() if data is None else data
            except ModelError:
                data = b""
        found.append(data or b"")
    return found
