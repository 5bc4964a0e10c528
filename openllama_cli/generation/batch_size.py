"""How many rows run at a time: as many as memory has room for, up to where more stops helping."""

# A CPU's matrix products gain little beyond this batch size; a GPU's far more.
MOST_ON_CPU = 16
MOST_ON_GPU = 64
# On a GPU, caches grow in steps of this many positions, and slots in steps of this many (`forward.cuda.slots`); a few more
# slots than rows keep the prefixes of rows that ended (`decode.prefix`).
_GPU_POSITIONS = 256
_GPU_SLOTS = 8
_GPU_KEPT = 4
# Of the free memory. Activations, the allocator's own needs and other programs want some of it too.
_CACHE_SHARE = 0.6


def auto_batch_size(free_bytes: int, bytes_per_position: int, positions: int, *, on_cpu: bool) -> int:
    """As many rows as fit into the free memory, at least one, up to where more stops helping.

    free_bytes: memory free once the model is loaded. bytes_per_position: keys and values of one token in all layers.
    positions: of the longest row.
    """
    cells = int(free_bytes * _CACHE_SHARE) // bytes_per_position
    if on_cpu:
        return max(1, min(MOST_ON_CPU, cells // positions))
    slots = max(1, min(MOST_ON_GPU + _GPU_SLOTS, cells // (positions // _GPU_POSITIONS * _GPU_POSITIONS + _GPU_POSITIONS)))
    return slots if slots <= _GPU_SLOTS else min(slots // _GPU_SLOTS * _GPU_SLOTS - _GPU_KEPT, MOST_ON_GPU)
