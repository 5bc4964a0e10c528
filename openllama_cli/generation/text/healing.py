"""Token healing (`--heal`): the prompt's last token is given back to the model, which has to begin with its text.

A prompt that is cut in a word, or behind a space, ends in tokens that rarely stood there in training. Backing up one token and
drawing it anew, among those whose text begins with it or is a beginning of it, lets the model choose the tokens of the whole
word (as in guidance, "The Art of Prompt Design: Prompt Boundaries and Token Healing", Lundberg 2023).
"""

import weakref
from collections.abc import Sequence
from dataclasses import replace

import torch

from openllama_cli.errors import ModelError
from openllama_cli.generation.decode.request import Request
from openllama_cli.models.tokenizer.base import Tokenizer

_KNOWN: weakref.WeakKeyDictionary[Tokenizer, list[bytes]] = weakref.WeakKeyDictionary()


def heal(request: Request, tokenizer: Tokenizer) -> tuple[Request, str]:
    """The request without its prompt's last token, bound to begin with that one's text; and this text, which is not the
    completion's. Unchanged where there is nothing before that token, or it has no text or leaves a character incomplete.
    """
    *before, last = request.tokens
    text = _bytes_of(tokenizer, [last])[0]
    if not before or not text or tokenizer.unfinished(request.tokens):
        return request, ""
    shown = tokenizer.decode_continuation(before, [last])
    return replace(request, tokens=before, constraints=(*request.constraints, Healing(tokenizer, text))), shown


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
