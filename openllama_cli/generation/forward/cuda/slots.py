"""Rows' KV caches as slots of one block of memory: what a captured CUDA graph needs, since it always reads the same addresses.

Shapes: S = slots, K = key/value heads, P = positions of a slot, D' = head size filled up with zeros to a multiple of 8, which
attention kernels ask for (OpenLLaMA-3B's heads have 100).
"""

import weakref
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from openllama_cli.generation.forward.cache import LARGE_PREFILL_CHUNK, KVCache

# Positions of a slot, and of what attention looks at, come in multiples of this: few sizes, few graphs.
POSITIONS = 256
_ALIGNMENT = 8


@dataclass(frozen=True)
class SlotShape:
    """Of the model that the slots are for, and of its keys and values. context: positions that it was made for."""

    context: int
    layers: int
    kv_heads: int
    head_size: int
    device: torch.device
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """D'."""
        return up_to(self.head_size, _ALIGNMENT)


class SlotPool:
    """Slots, all of the same size; they grow in number and size as rows ask for it.

    memory: for each layer [S, P, 2 K, D'], the keys of a position before its values. version: another one whenever memory
    moved, so that graphs which know the old addresses are thrown away.
    """

    def __init__(self, shape: SlotShape) -> None:
        self.shape = shape
        self.version = 0
        empty = torch.zeros((0, 0, 2 * shape.kv_heads, shape.width), device=shape.device, dtype=shape.dtype)
        self.memory = [empty] * shape.layers
        self._free: list[int] = []
        # A size that the memory did not suffice for; it is not tried again before a slot has come back.
        self._too_large: tuple[int, int] | None = None

    @property
    def slots(self) -> int:
        """S."""
        return self.memory[0].shape[0]

    @property
    def positions(self) -> int:
        """P. The last one belongs to no row: slots that are not in use write there."""
        return self.memory[0].shape[1]

    def take(self, capacity: int) -> "SlotCache":
        """An empty cache of at least `capacity` positions, in the lowest free slot.

        Raises torch.OutOfMemoryError where the memory does not suffice; the rows in flight keep theirs.
        """
        if capacity >= self.positions:
            self._lengthen(capacity + 1)
        if not self._free:
            self._resize(slot_count(self.slots + 1), self.positions)
        slot = min(self._free)
        self._free.remove(slot)
        for layer in self.memory:
            layer[slot].zero_()  # What is not a number in a row that failed would reach through every mask.
        return SlotCache(self, slot, capacity)

    def give_back(self, slot: int) -> None:
        """Told of a slot whose cache is gone."""
        self._free.append(slot)
        self._too_large = None

    def _lengthen(self, positions: int) -> None:
        """Twice as many positions at a time, so that rows of ever new lengths move the memory seldom; fewer if need be."""
        slots, least = max(1, self.slots), up_to(positions, POSITIONS)
        twice = up_to(min(2 * self.positions, self.shape.context + 1), POSITIONS)
        if self.slots > 1 and twice > least:
            try:
                return self._resize(slots, twice)
            except torch.OutOfMemoryError:
                pass
        return self._resize(slots, least)

    def _resize(self, slots: int, positions: int) -> None:
        """Move to larger memory, or back where it does not suffice; one layer at a time, so that little more is ever needed."""
        before, known = (self.slots, self.positions), self._too_large
        if known is not None and slots >= known[0] and positions >= known[1]:
            raise torch.OutOfMemoryError("no memory for more slots")
        moved = 0
        try:
            for number in range(self.shape.layers):
                self._move(number, slots, positions)
                moved += 1
        except torch.OutOfMemoryError:
            self._too_large = (slots, positions)
            for number in range(moved):
                self._move(number, *before)
            raise
        finally:
            self.version += moved > 0
        self._free += range(before[0], slots)

    @torch.inference_mode(False)  # Prefixes are copied outside of it, into what was made inside.
    def _move(self, layer: int, slots: int, positions: int) -> None:
        old = self.memory[layer]
        if old.shape[:2] == (slots, positions):
            return
        new = old.new_zeros((slots, positions, *old.shape[2:]))
        known = old[:slots, :positions]
        new[: known.shape[0], : known.shape[1]] = known
        self.memory[layer] = new


class SlotCache(KVCache):
    """A row's KV cache in a slot of a pool; the slot is free again once this is gone."""

    def __init__(self, pool: SlotPool, slot: int, capacity: int) -> None:
        super().__init__(capacity, LARGE_PREFILL_CHUNK)
        self.pool, self.slot = pool, slot
        weakref.finalize(self, pool.give_back, slot)

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        memory = self.pool.memory[layer][self.slot].transpose(0, 1)  # [2 K, P, D']
        heads, count, size = keys.shape
        end = self.length + count
        memory[:, self.length : end] = pad(torch.cat((keys, values)), (0, self.pool.shape.width - size))
        return memory[:heads, :end], memory[heads:, :end]

    def layers(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        heads, size = self.pool.shape.kv_heads, self.pool.shape.head_size
        slots = (layer[self.slot, ..., :size].transpose(0, 1) for layer in self.pool.memory)  # [2 K, P, D] each
        return {number: (slot[:heads], slot[heads:]) for number, slot in enumerate(slots)}


def up_to(number: int, multiple: int) -> int:
    """The least multiple that is not less."""
    return -(-number // multiple) * multiple


def slot_count(wanted: int) -> int:
    """The sizes that pools and graphs come in: 1, 2, 4, 8, then multiples of 8."""
    return next((size for size in (1, 2, 4, 8) if size >= wanted), up_to(wanted, 8))
