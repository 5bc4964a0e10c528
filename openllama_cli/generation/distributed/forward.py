"""Forward passes that several processes run together, each on its part of the model.

Rank 0 runs the decode loop. Before each forward pass it tells the other ranks what to run, and they run the same pass beside
it, each on a KV cache of its own heads. Tokens are chosen on rank 0 alone, so the ranks cannot come apart.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.transformers_forward import Forward

_numbers = itertools.count()


class Others(Protocol):
    """The other ranks, as rank 0 sees them."""

    def send(self, order: dict[str, Any]) -> None:
        """Tell them what to do next."""

    def together(self) -> AbstractContextManager[None]:
        """Around what all ranks do at once."""


class LeadingForward:
    """Rank 0's forward pass: says what it runs, and runs it. forward: on rank 0's part of the model."""

    def __init__(self, forward: Forward, others: Others) -> None:
        self._forward, self._others = forward, others
        self.name = f"tensor-parallel {forward.name}"
        self._known: weakref.WeakKeyDictionary[KVCache, int] = weakref.WeakKeyDictionary()
        self._freed: list[int] = []

    @property
    def context(self) -> int:
        return self._forward.context

    def new_cache(self, capacity: int) -> KVCache:
        return self._forward.new_cache(capacity)

    def prefill(self, tokens: Sequence[int], cache: KVCache, *, every: bool = False) -> torch.Tensor:
        order = {"prefill": list(tokens), "rows": [self._row(cache)], "every": every}
        return self._run(order, lambda: self._forward.prefill(tokens, cache, every=every))

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        order = {"decode": list(tokens), "rows": [self._row(cache) for cache in caches]}
        return self._run(order, lambda: self._forward.decode(tokens, caches))

    def _run(self, order: dict[str, Any], work: Callable[[], torch.Tensor]) -> torch.Tensor:
        freed, self._freed[:] = self._freed[:], []
        with self._others.together():
            self._others.send({**order, "freed": freed})
            return work()

    def _row(self, cache: KVCache) -> dict[str, Any]:
        """Which cache, and how it stands: the decode loop also fills and shortens caches by itself."""
        if cache in self._known:
            return {"cache": self._known[cache], "length": cache.length}
        number = next(_numbers)
        row = {"cache": number, "length": cache.length, "capacity": cache.capacity}
        if cache.length:
            source = cache.origin() if cache.origin is not None else None
            assert source is not None, "a cache that was filled from nowhere"
            row["like"] = self._known[source]
        self._known[cache] = number
        weakref.finalize(cache, self._freed.append, number)
        return row


def follow(forward: Forward, orders: Iterable[dict[str, Any]], together: Callable[[], AbstractContextManager[None]]) -> None:
    """The other ranks' side: run what rank 0 says, until it has no more to say.

    forward: on this rank's part of the model. together: see `Others`.
    """
    caches: dict[int, KVCache] = {}
    for order in orders:
        for number in order["freed"]:
            caches.pop(number, None)
        with together():
            # In here too: memory may run out while a prefix is copied.
            rows = [_cache(forward, caches, row) for row in order["rows"]]
            if "decode" in order:
                forward.decode(order["decode"], rows)
            else:
                forward.prefill(order["prefill"], rows[0], every=order["every"])


def _cache(forward: Forward, caches: dict[int, KVCache], row: dict[str, Any]) -> KVCache:
    number, length = row["cache"], row["length"]
    if number not in caches:
        cache = caches[number] = forward.new_cache(row["capacity"])
        if "like" in row:
            cache.copy_from(caches[row["like"]], length)
    if caches[number].length != length:
        caches[number].truncate(length)
    return caches[number]
