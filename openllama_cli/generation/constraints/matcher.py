"""A row's place in its constraint: which tokens may come next, and whether the text may end here."""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch

from openllama_cli.errors import GenerationError, OlcError
from openllama_cli.generation.constraints import library
from openllama_cli.generation.constraints.config import Constraint
from openllama_cli.generation.constraints.vocabulary import too_complex, vocabulary_of
from openllama_cli.models.tokenizer.base import Tokenizer, unfinished_bytes


def matcher(
    constraint: Constraint, tokenizer: Tokenizer, prompt: Sequence[int], ends: frozenset[int]
) -> "Matcher | Unmatchable":
    """The `Matcher` of a row, or what ends the row with the error why there is none: the others go on."""
    try:
        return Matcher(constraint, tokenizer, prompt, ends)
    except OlcError as error:
        return Unmatchable(error)


class Unmatchable:
    """In place of a matcher that could not be made: an error where the row's first token would be chosen."""

    finished = False

    def __init__(self, error: OlcError) -> None:
        self._error = error

    def mask(self, vocabulary: int) -> NoReturn:
        raise self._error

    def push(self, token: int) -> None:
        """None is."""

    def take_back(self, count: int) -> None:
        """None is."""


class Matcher:
    """The constraint of one row; it is told of every token that is kept.

    prompt: the row's ids. What it begins and the completion ends (a character in parts) is printed with the completion.
    ends: ids that end the row, EOS: they may come where the text is a complete match, and only there.
    Raises UsageError for a tokenizer that no constraint can be kept with, GenerationError if the constraint is too complex.
    """

    def __init__(self, constraint: Constraint, tokenizer: Tokenizer, prompt: Sequence[int], ends: frozenset[int]) -> None:
        self._vocabulary = vocabulary_of(tokenizer)
        start, opening = self._vocabulary.compiled(constraint.compiled)
        self._parser = start.deep_copy()
        self._ends = sorted(ends)
        tail = b"".join(tokenizer.token_bytes(token) or b"|" for token in prompt[-3:])
        begun = tail[len(tail) - unfinished_bytes(tail) :]
        ids = self._vocabulary.bytes_as_ids(begun)
        self._never = self._parser.try_consume_tokens(ids) != len(ids)
        self._opening = opening if not begun and self._vocabulary.at_opening(tokenizer, prompt) else None
        # How many of the parser's tokens each of the row's is.
        self._taken: list[int] = []
        self._bits: npt.NDArray[np.bool_] | None = None

    def mask(self, vocabulary: int) -> torch.Tensor:
        """[vocabulary] booleans: the tokens that may come next. Raises GenerationError if the constraint is too complex."""
        allowed = np.zeros(vocabulary, dtype=np.bool_)
        bits = self._allowed()[:vocabulary]
        allowed[: len(bits)] = bits
        allowed[[token for token in self._ends if token < vocabulary]] = self.can_end
        return torch.from_numpy(allowed)

    @property
    def can_end(self) -> bool:
        """Whether the text so far is a complete match."""
        return not self._never and bool(self._parser.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether the text is a complete match that no token can go on with."""
        try:
            return self.can_end and not self._allowed().any()
        except GenerationError:  # The next token's mask says so.
            return False

    def push(self, token: int) -> None:
        """A token was chosen."""
        if token in self._ends and self.can_end:
            self._taken.append(0)
            return
        # The trie of the middle has other bytes for it.
        opening = self._opening is not None and not self._taken
        ids = self._vocabulary.bytes_as_ids(self._vocabulary.openings[token]) if opening else [token]
        self._never = self._never or self._parser.try_consume_tokens(ids) != len(ids)
        self._taken.append(len(ids))
        self._bits = None

    def take_back(self, count: int) -> None:
        """The last tokens were not to be."""
        if count:
            self._parser.rollback(sum(self._taken[-count:]))
            del self._taken[-count:]
            self._bits = None

    def _allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens of the vocabulary may come next."""
        if self._bits is None:
            size = len(self._vocabulary.texts)
            if self._never:
                self._bits = np.zeros(size, dtype=np.bool_)
                return self._bits
            data = self._opening if self._opening is not None and not self._taken else self._parser.compute_bitmask()
            problem = library.failure(self._parser)
            if problem is not None:
                raise too_complex(problem)
            self._bits = np.unpackbits(np.frombuffer(data, np.uint8), count=size, bitorder="little").view(np.bool_)
        return self._bits
