"""How many rows at a time: as many as their keys and values fit into the free memory, up to where more stops helping."""

from openllama_cli.errors import UsageError

# A processor's matrix products gain little beyond this many rows; a GPU's far more.
MOST_ON_CPU = 16
MOST_ON_GPU = 64

# A GPU's rows get memory in steps of so many positions, and slots in steps of so many (`generation.slots`); a few slots more
# than rows keep the prefixes of rows that ended (`generation.prefix`).
_GPU_POSITIONS = 256
_GPU_SLOTS = 8
_GPU_KEPT = 4

# Activations, the allocator's own needs and other programs want some of it too.
_SHARE = 0.6


def auto_rows(free_bytes: int, bytes_per_position: int, positions: int, *, on_cpu: bool) -> int:
    """Rows at a time on a device; for the numbers see `rows_at_a_time`."""
    if on_cpu:
        return rows_at_a_time(free_bytes, bytes_per_position, positions, MOST_ON_CPU)
    slot = positions // _GPU_POSITIONS * _GPU_POSITIONS + _GPU_POSITIONS
    slots = rows_at_a_time(free_bytes, bytes_per_position, slot, MOST_ON_GPU + _GPU_SLOTS)
    return slots if slots <= _GPU_SLOTS else min(slots // _GPU_SLOTS * _GPU_SLOTS - _GPU_KEPT, MOST_ON_GPU)


def rows_at_a_time(free_bytes: int, bytes_per_position: int, positions: int, most: int) -> int:
    """Rows whose caches fit, at least one.

    free_bytes: memory free once the model is loaded. bytes_per_position: keys and values of one token in all layers.
    positions: of the longest row.
    """
    fitting = int(free_bytes * _SHARE) // max(1, bytes_per_position * positions)
    return max(1, min(most, fitting))


def cache_bytes_per_position(layers: int, kv_heads: int, head_dim: int, element_bytes: int) -> int:
    """Bytes of keys and values of one token in all layers."""
    return 2 * layers * kv_heads * head_dim * element_bytes


def parse_batch_size(text: str) -> int | None:
    """The value of --batch-size: None for auto, else a number of rows. Raises UsageError."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UsageError(f"--batch-size {text} is not known", "give auto, or a number from 1 to 1024")
    return int(text)
