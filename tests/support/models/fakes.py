"""A model with known logits, so that loop tests take milliseconds, and what a decode loop's events come to."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.processors import Place, stages
from openllama_cli.generation.decode.request import Scored, Step
from openllama_cli.generation.forward.cache import KVCache


class FakeForward:
    """Logits that are a function of the tokens so far; counts what it was asked to run.

    next_logits: tokens so far → [vocab] logits.
    """

    name = "fake"

    def __init__(self, next_logits: Callable[[Sequence[int]], torch.Tensor], context: int = 64) -> None:
        self._next_logits = next_logits
        self._seen: dict[int, list[int]] = {}
        self.context = context
        self.prefilled: list[list[int]] = []
        self.decoded_rows: list[int] = []
        self.branched: list[list[int]] = []

    def new_cache(self, capacity: int) -> KVCache:
        return KVCache(capacity)

    def prefill(
        self,
        tokens: Sequence[int],
        cache: KVCache,
        *,
        every: bool = False,
        drafted: bool = False,
        prompt: int | None = None,
    ) -> torch.Tensor:
        assert cache.capacity >= cache.length + len(tokens)
        self.prefilled.append(list(tokens))
        known = self._seen.get(id(cache), [])[: cache.length]
        copied = [0] * (cache.length - len(known))  # From another row; which tokens these were does not matter here.
        seen = self._seen[id(cache)] = [*known, *copied, *tokens]
        ends = range(cache.length + 1, len(seen) + 1) if every else [len(seen)]
        cache.advance(len(tokens))
        return torch.stack([self._next_logits(seen[:end]) for end in ends])

    def branch(self, tokens: Sequence[int], parents: Sequence[int], cache: KVCache) -> torch.Tensor:
        assert cache.capacity >= cache.length + len(tokens)
        self.branched.append(list(tokens))
        seen, paths = self._seen[id(cache)][: cache.length], list[list[int]]()
        for token, parent in zip(tokens, parents, strict=True):
            paths.append([*(paths[parent] if parent >= 0 else []), token])
        return torch.stack([self._next_logits(seen + path) for path in paths])

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        self.decoded_rows.append(len(tokens))
        for token, cache in zip(tokens, caches, strict=True):
            assert cache.length < cache.capacity, "a position beyond the cache"
            self._seen[id(cache)][cache.length :] = [token]
            cache.advance(1)
        return torch.stack([self._next_logits(self._seen[id(cache)]) for cache in caches])


def counting(vocab: int = 16) -> Callable[[Sequence[int]], torch.Tensor]:
    """The most likely next token is the last one plus one."""

    def next_logits(tokens: Sequence[int]) -> torch.Tensor:
        logits = torch.zeros(vocab)
        logits[(tokens[-1] + 1) % vocab] = 5.0
        return logits

    return next_logits


def uniform(vocab: int = 16) -> Callable[[Sequence[int]], torch.Tensor]:
    """Every token is as likely as every other."""
    return lambda tokens: torch.zeros(vocab)


def warp(logits: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """The distribution that a token is drawn from: [vocab] probabilities."""
    *_, (_, last) = stages(logits, Place(), config)
    return last.softmax(-1)


def scored_rows(events: Iterable[Step]) -> dict[int, list[Scored]]:
    """Each row's tokens, in the order of rows. None may have failed."""
    rows: dict[int, list[Scored]] = defaultdict(list)
    for event in events:
        assert event.error is None
        rows[event.row] += [event.scored] if event.scored else []
    return {row: rows[row] for row in sorted(rows)}


def token_rows(events: Iterable[Step]) -> list[list[int]]:
    """The same as token ids alone."""
    return [[scored.token for scored in row] for row in scored_rows(events).values()]
