"""A tokenizer's vocabulary as bytes that are printed, and what is compiled for it."""

import weakref
from collections.abc import Sequence
from typing import Any

from openllama_cli.errors import GenerationError, ModelError, UsageError
from openllama_cli.generation.constraints import library
from openllama_cli.models.tokenizer.base import Tokenizer

# Grammars that stay compiled, if they are not long; rows may bring any number of them.
_COMPILED = 64
_KNOWN: "weakref.WeakKeyDictionary[Tokenizer, Vocabulary]" = weakref.WeakKeyDictionary()


class Vocabulary:
    """What each token prints.

    texts: within a text, as bytes: a piece's text with its space, or the byte that it stands for. Empty for tokens that print
    nothing (BOS, EOS), that no piece has, and for <unk>, which prints a mark that is no text of the model's.
    openings: the same where nothing was printed yet. Most vocabularies drop the space there that a word begins with.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.local:
            raise UsageError(
                f"{tokenizer.path} rewrites complete texts, so no constraint can be kept token by token",
                "leave out --regex, --json-schema and --grammar, or use another model",
                code="constraint_tokenizer",
            )
        silent = tokenizer.special_ids | tokenizer.pieceless(tokenizer.vocab_size) | {tokenizer.unk_id}
        self.texts = [b"" if token in silent else _printed(tokenizer, token) for token in range(tokenizer.vocab_size)]
        self.openings = [
            tokenizer.decode([token]).encode() if text.startswith(b" ") else text for token, text in enumerate(self.texts)
        ]
        self._trie = library.token_trie(self.texts)
        self._opening_trie = self._trie if self.openings == self.texts else library.token_trie(self.openings)
        words = (token for token, text in enumerate(self.texts) if text != self.openings[token])
        self._word = next(words, None)
        self.compiled = library.remembered(_COMPILED)(self._compiled)

    def at_opening(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
        """Whether nothing was printed yet after this prompt, so that a word loses its space."""
        if self._word is None:
            return False
        return tokenizer.decode_continuation(prompt, [self._word]).encode() != self.texts[self._word]

    def bytes_as_ids(self, data: bytes) -> list[int]:
        """The ids behind the vocabulary that stand for these bytes."""
        return [len(self.texts) + byte for byte in data]

    def _compiled(self, grammar: str) -> tuple[Any, bytes]:
        """A parser at its start, to be copied, and the tokens that may come first where nothing was printed yet, as bits.

        grammar: `Constraint.compiled`.
        """
        inner = library.parser(self._trie, grammar)
        opening = inner if self._opening_trie is self._trie else library.parser(self._opening_trie, grammar)
        bits = opening.deep_copy().compute_bitmask()
        problem = library.failure(inner) or library.failure(opening)
        if problem is not None:
            raise too_complex(problem)
        return inner, bits


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """A tokenizer's, made once. Raises UsageError for one whose texts are not what its tokens print."""
    known = _KNOWN.get(tokenizer)
    if known is None:
        known = _KNOWN[tokenizer] = Vocabulary(tokenizer)
    return known


def too_complex(problem: str) -> GenerationError:
    """The error of a parser that gave up."""
    return GenerationError(
        f"the constraint is too complex: {problem.splitlines()[0][:200]}",
        "simplify the regular expression, schema or grammar",
        code="constraint_too_complex",
    )


def _printed(tokenizer: Tokenizer, token: int) -> bytes:
    try:
        data = tokenizer.token_bytes(token)
        return tokenizer.text(token).encode() if data is None else data
    except ModelError:  # An id that no piece has.
        return b""
