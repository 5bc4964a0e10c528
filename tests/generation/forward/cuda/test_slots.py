"""Slots of one block of memory: handed on, grown in few steps, and kept where memory runs out."""

from types import SimpleNamespace

import pytest
import torch

from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.cuda.slots import POSITIONS, SlotPool

CONTEXT = 1024


def make_pool(context: int = CONTEXT, layers: int = 1) -> SlotPool:
    """Of two key/value heads of 12 numbers."""
    sizes = {"context": context, "layers": [None] * layers, "kv_heads": 2, "head_size": 12}
    return SlotPool(SimpleNamespace(**sizes, device=torch.device("cpu"), dtype=torch.float32))


def test_a_pool_that_runs_out_of_memory_while_it_grows_keeps_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(layers=3)
    cache = pool.acquire(100)
    for layer in range(3):
        cache.append(layer, torch.full((2, 5, 12), 1.0 + layer), torch.full((2, 5, 12), -1.0 - layer))
    cache.advance(5)
    real, moved = SlotPool._move, 0

    def limited(pool: SlotPool, layer: int, slots: int, positions: int) -> None:
        nonlocal moved
        moved += 1
        if moved == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(pool, layer, slots, positions)

    version = pool.version
    with monkeypatch.context() as patch:
        patch.setattr(SlotPool, "_move", limited)
        with pytest.raises(torch.OutOfMemoryError):
            pool.acquire(600)
    assert pool.version != version
    assert (pool.slots, pool.positions) == (1, POSITIONS)
    for layer, (keys, values) in cache.layers().items():
        assert keys[:, :5].eq(1.0 + layer).all()
        assert values[:, :5].eq(-1.0 - layer).all()
    pool.acquire(10)  # Another row comes and goes: there may be memory again.
    assert pool.acquire(600).slot != cache.slot
    assert cache.layers()[2][0][:, :5].eq(3.0).all()


def test_a_size_that_found_no_memory_is_not_tried_again_at_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(layers=3)
    caches: list[KVCache] = [pool.acquire(10)]
    version, moves = pool.version, 0

    def full(*_: object) -> None:
        nonlocal moves
        moves += 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(SlotPool, "_move", full)
        for _ in range(3):
            with pytest.raises(torch.OutOfMemoryError):
                pool.acquire(10)
    assert (moves, pool.version) == (1, version), "graphs are thrown away only when memory moved"
    caches.clear()
    caches = [pool.acquire(10), pool.acquire(10)]
    assert pool.slots == 2


def test_longer_rows_get_what_they_need_where_twice_as_much_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(4 * CONTEXT)
    caches: list[KVCache] = [pool.acquire(2 * POSITIONS - 1), pool.acquire(10)]
    real = SlotPool._move

    def small(pool: SlotPool, layer: int, slots: int, positions: int) -> None:
        if positions > 3 * POSITIONS:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(pool, layer, slots, positions)

    monkeypatch.setattr(SlotPool, "_move", small)
    caches.append(pool.acquire(2 * POSITIONS))
    assert pool.positions == 3 * POSITIONS


def test_slots_are_handed_on_and_grow_in_few_steps() -> None:
    pool = make_pool()
    caches: list[KVCache] = [pool.acquire(10) for _ in range(5)]
    assert (pool.slots, pool.positions) == (8, POSITIONS)
    assert pool.memory[0].shape == (8, POSITIONS, 4, 16)
    del caches[1]
    assert pool.acquire(10).slot == 1
    versions = pool.version
    for capacity in range(POSITIONS, CONTEXT + 1):
        pool.acquire(capacity)
    assert pool.version - versions <= 4
    assert pool.positions == CONTEXT + POSITIONS  # One position more than the context, for slots that are not in use.
