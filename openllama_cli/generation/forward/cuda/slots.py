"""KV caches of rows as slots of one tensor: a captured CUDA graph always reads and writes the same addresses.

Shapes: S = slots, K = key/value heads, P = positions of a slot, D' = head size zero-padded to a multiple of 8, which attention
kernels require (OpenLLaMA-3B's heads have 100).
"""

import weakref

import torch
from torch.nn.functional import pad

from openllama_cli.generation.forward.cache import LARGE_PREFILL_CHUNK, KVCache
from openllama_cli.generation.forward.weights import LlamaWeights

# Positions of a slot, and those that attention reads, are multiples of this: few sizes, few graphs.
POSITIONS = 256
_ALIGNMENT = 8


class SlotPool:
    """Slots of one size for a model's keys and values; their number and size grow on demand.

    memory: per layer [S, P, 2 K, D'], a position's keys before its values. version: changes whenever memory moves, since graphs
    captured with the old addresses are invalid then. width: D'.
    """

    def __init__(self, weights: LlamaWeights) -> None:
        self._context, self.kv_heads, self.head_size = weights.context, weights.kv_heads, weights.head_size
        self.width = round_up(weights.head_size, _ALIGNMENT)
        self.version = 0
        empty = torch.zeros((0, 0, 2 * self.kv_heads, self.width), device=weights.device, dtype=weights.dtype)
        self.memory = [empty] * len(weights.layers)
        self._free: list[int] = []
        # A size that ran out of memory; not tried again until a slot is released.
        self._too_large: tuple[int, int] | None = None

    @property
    def slots(self) -> int:
        """S."""
        return self.memory[0].shape[0]

    @property
    def positions(self) -> int:
        """P. The last one belongs to no row: unused slots write there."""
        return self.memory[0].shape[1]

    def acquire(self, capacity: int) -> "SlotCache":
        """An empty cache of at least `capacity` positions, in the lowest free slot.

        Raises torch.OutOfMemoryError if memory runs out; rows in flight keep their slots.
        """
        if capacity >= self.positions:
            self._lengthen(capacity + 1)
        if not self._free:
            self._resize(slot_count(self.slots + 1), self.positions)
        slot = min(self._free)
        self._free.remove(slot)
        for layer in self.memory:
            layer[slot].zero_()  # NaNs of a row that failed would pass through every mask.
        return SlotCache(self, slot, capacity)

    def release(self, slot: int) -> None:
        """Called when a slot's cache is garbage collected."""
        self._free.append(slot)
        self._too_large = None

    def _lengthen(self, positions: int) -> None:
        """Double the positions, so that memory seldom moves as rows get longer; only as many as needed if that does not fit."""
        slots, needed = max(1, self.slots), round_up(positions, POSITIONS)
        doubled = round_up(min(2 * self.positions, self._context + 1), POSITIONS)
        if self.slots > 1 and doubled > needed:
            try:
                return self._resize(slots, doubled)
            except torch.OutOfMemoryError:
                pass
        return self._resize(slots, needed)

    def _resize(self, slots: int, positions: int) -> None:
        """Move to larger memory, or back if it runs out; one layer at a time, so that the peak is little above the result."""
        before, known = (self.slots, self.positions), self._too_large
        if known is not None and slots >= known[0] and positions >= known[1]:
            raise torch.OutOfMemoryError("no memory for more slots")
        moved = 0
        try:
            for number in range(len(self.memory)):
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

    @torch.inference_mode(False)  # Prefixes are copied into these tensors outside of inference mode.
    def _move(self, layer: int, slots: int, positions: int) -> None:
        old = self.memory[layer]
        if old.shape[:2] == (slots, positions):
            return
        new = old.new_zeros((slots, positions, *old.shape[2:]))
        known = old[:slots, :positions]
        new[: known.shape[0], : known.shape[1]] = known
        self.memory[layer] = new


class SlotCache(KVCache):
    """A row's KV cache in a slot of a pool; the slot is released with this object."""

    def __init__(self, pool: SlotPool, slot: int, capacity: int) -> None:
        super().__init__(capacity, LARGE_PREFILL_CHUNK)
        self.pool, self.slot = pool, slot
        weakref.finalize(self, pool.release, slot)

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        memory = self.pool.memory[layer][self.slot].transpose(0, 1)  # [2 K, P, D']
        heads, count, size = keys.shape
        end = self.length + count
        memory[:, self.length : end] = pad(torch.cat((keys, values)), (0, self.pool.width - size))
        return memory[:heads, :end], memory[heads:, :end]

    def layers(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        heads, size = self.pool.kv_heads, self.pool.head_size
        slots = (layer[self.slot, ..., :size].transpose(0, 1) for layer in self.pool.memory)  # [2 K, P, D] each
        return {number: (slot[:heads], slot[heads:]) for number, slot in enumerate(slots)}


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not smaller."""
    return -(-number // multiple) * multiple


def slot_count(wanted: int) -> int:
    """Sizes of pools and graphs: 1, 2, 4, 8, then multiples of 8."""
    return next((size for size in (1, 2, 4, 8) if size >= wanted), round_up(wanted, 8))
