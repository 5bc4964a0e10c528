"""A guard against loops: greedy decoding that repeats itself has fallen into a circle that it rarely leaves.

The rule: a period of tokens has been repeated so often, and over so many tokens, that it cannot be meant. What it was chosen
on, and
the command that repeats the measurement: docs/decoding.md and `benchmark/decoding/loops.py`.
"""

import numpy as np

# Tokens of the longest period that is looked for.
LONGEST_PERIOD = 128
# A period must stand there so often, and fill so many tokens, before it counts as a loop.
LEAST_TIMES = 20
LEAST_TOKENS = 256


def least_repeated(period: int) -> int:
    """How many tokens must equal the one a period before them until that is a loop."""
    return max((LEAST_TIMES - 1) * period, LEAST_TOKENS - period)


_LEAST = np.array([least_repeated(period) for period in range(1, LONGEST_PERIOD + 1)])


class LoopGuard:
    """Tells when the tokens of a completion have become a loop."""

    def __init__(self) -> None:
        self._tokens = np.empty(256, dtype=np.int64)
        self._length = 0
        # For each period from 1: how many of the last tokens equal the one a period before them.
        self._repeated = np.zeros(LONGEST_PERIOD, dtype=np.int64)

    def push(self, token: int) -> bool:
        """Add a token; whether the row is in a loop."""
        if self._length == len(self._tokens):
            self._tokens = np.concatenate((self._tokens, np.empty_like(self._tokens)))
        before = self._tokens[max(0, self._length - LONGEST_PERIOD) : self._length][::-1]
        repeated = self._repeated[: len(before)]
        repeated += 1
        repeated *= before == token
        self._tokens[self._length] = token
        self._length += 1
        return bool((self._repeated >= _LEAST).any())

    def take_back(self, count: int) -> None:
        """Drop the last tokens."""
        kept = self._tokens[: self._length - count].tolist()
        self._length = 0
        self._repeated[:] = 0
        for token in kept:
            self.push(token)
