"""Forward passes that all ranks of a group run together, each on its shard of the model.

The leader (rank 0) runs the decode loop. Before each forward pass it broadcasts what to run, and the followers run the same
pass, each with KV caches of its own heads. Tokens are chosen by the leader alone, so ranks cannot diverge.
"""

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from openllama_cli.generation.distributed.group import Group
from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.transformers_forward import Forward

_numbers = itertools.count()


class LeaderForward:
    """The leader's forward pass: broadcasts what it runs, then runs it. forward: on the leader's shard of the model."""

    def __init__(self, forward: Forward, group: Group) -> None:
        self._forward, self._group = forward, group
        self.name, self.context = f"tensor-parallel {forward.name}", forward.context
        self.new_cache = forward.new_cache
        self._numbers: weakref.WeakKeyDictionary[KVCache, int] = weakref.WeakKeyDictionary()
        self._freed: list[int] = []

    def prefill(
        self,
        tokens: Sequence[int],
        cache: KVCache,
        *,
        every: bool = False,
        drafted: bool = False,
        prompt: int | None = None,
    ) -> torch.Tensor:
        how: dict[str, Any] = {"every": every, "drafted": drafted, "prompt": prompt}
        command = {"prefill": list(tokens), "rows": [self._row(cache)], **how}
        return self._run(command, lambda: self._forward.prefill(tokens, cache, **how))

    def branch(self, tokens: Sequence[int], parents: Sequence[int], cache: KVCache) -> torch.Tensor:
        command = {"branch": list(tokens), "parents": list(parents), "rows": [self._row(cache)]}
        return self._run(command, lambda: self._forward.branch(tokens, parents, cache))

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        command = {"decode": list(tokens), "rows": [self._row(cache) for cache in caches]}
        return self._run(command, lambda: self._forward.decode(tokens, caches))

    def _run(self, command: dict[str, Any], run: Callable[[], torch.Tensor]) -> torch.Tensor:
        freed, self._freed[:] = self._freed[:], []
        with self._group.collective():
            self._group.broadcast({**command, "freed": freed})
            return run()

    def _row(self, cache: KVCache) -> dict[str, Any]:
        """A cache's number and state: the decode loop also copies prefixes into caches and truncates them."""
        if cache in self._numbers:
            return {"cache": self._numbers[cache], "length": cache.length}
        number = next(_numbers)
        row = {"cache": number, "length": cache.length, "capacity": cache.capacity}
        if cache.length:
            source = cache.origin() if cache.origin is not None else None
            assert source is not None, "a cache that was filled without a forward pass"
            row["copy_of"] = self._numbers[source]
        self._numbers[cache] = number
        weakref.finalize(cache, self._freed.append, number)
        return row


def follow(
    forward: Forward, commands: Iterable[dict[str, Any]], collective: Callable[[], AbstractContextManager[None]]
) -> None:
    """A follower: run the leader's commands until there are no more.

    forward: on this rank's shard of the model. commands, collective: `Group.commands()` and `Group.collective`.
    """
    caches: dict[int, KVCache] = {}
    for command in commands:
        for number in command["freed"]:
            caches.pop(number, None)
        with collective():
            # Inside, since memory may also run out while a prefix is copied.
            rows = [_cache(forward, caches, row) for row in command["rows"]]
            if "decode" in command:
                forward.decode(command["decode"], rows)
            elif "branch" in command:
                forward.branch(command["branch"], command["parents"], rows[0])
            else:
                how = {name: command[name] for name in ("every", "drafted", "prompt") if name in command}
                forward.prefill(command["prefill"], rows[0], **how)


def _cache(forward: Forward, caches: dict[int, KVCache], row: dict[str, Any]) -> KVCache:
    number, length = row["cache"], row["length"]
    if number not in caches:
        cache = caches[number] = forward.new_cache(row["capacity"])
        if "copy_of" in row:
            cache.copy_from(caches[row["copy_of"]], length)
    if caches[number].length != length:
        caches[number].truncate(length)
    return caches[number]
