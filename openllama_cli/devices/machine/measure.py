"""How fast and how accurately a device computes: a matmul in every dtype, and its memory bandwidth.

A matmul of the size of the 3B model's MLP (64×3200 by 3200×8640) is the shape of prefill, where arithmetic is the limit; one
row of it is that of decode, where every weight is read once per token and memory is the limit. Decode goes through more
copies of the matrix than any cache holds.
"""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from openllama_cli.devices.machine.facts import DtypeResult, Measurement
from openllama_cli.errors import first_line
from openllama_cli.system.progress import NullProgress, Progress, shown

if TYPE_CHECKING:
    import torch


DTYPES = ("float32", "float16", "bfloat16")
# What olc computes in comes first, in case time runs out.
_ORDER = ("bfloat16", "float32", "float16")
ROWS, HIDDEN, INTERMEDIATE = 64, 3200, 8640
_BLOCKS = 9

# Root mean square of the error over that of the product. Correct results have 3e-7, 2e-4 and 2e-3; broken kernels 0.1 and more.
TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 2e-2}

# Large beside the last cache of a server's processor, and long beside the start of a GPU's kernel.
_WORKING_SET, _WORKING_SET_GPU = 600_000_000, 2_000_000_000
_SLOW_S = 1.0


def measure(device: str, *, free_bytes: int, progress: Progress | None = None, deadline: float = math.inf) -> Measurement:
    """Test and time one device in every dtype; takes about a second per dtype on two processor cores.

    free_bytes: of its memory; at most a third of it is used. deadline: of `time.perf_counter`; nothing starts after it.
    """
    progress = progress or NullProgress()
    started = time.perf_counter()
    working_set = min(_WORKING_SET if device == "cpu" else _WORKING_SET_GPU, free_bytes // 3)
    results: dict[str, DtypeResult] = {}
    speed = None
    with shown(progress, f"measuring the memory bandwidth of {device}", None), suppress(RuntimeError, MemoryError):
        speed = bandwidth(device, working_set, deadline=deadline)
    for name in _ORDER:
        if time.perf_counter() > deadline:
            break
        with shown(progress, f"testing {name} on {device}", None):
            try:
                results[name] = _test(device, name, working_set, deadline)
            except (RuntimeError, TypeError, MemoryError) as error:
                results[name] = DtypeResult(ok=False, error=first_line(error, 300))
    ordered = {name: results[name] for name in DTYPES if name in results}
    return Measurement(speed, ordered, time.perf_counter() - started)


def bandwidth(device: str, working_set: int = _WORKING_SET, *, runs: int = 5, deadline: float = math.inf) -> float:
    """GB/s that the device reads (or reads and writes) at best, over `working_set` bytes, the best of several runs.

    Raises RuntimeError where torch does, as for no memory.
    """
    import torch

    numbers = torch.ones(max(2, working_set // 8 * 2), device=device)
    source, target = numbers.chunk(2)
    # Which is fastest depends on the device; none is faster than the memory.
    operations: list[Callable[[], object]] = [
        lambda: torch.amax(numbers),
        lambda: torch.dot(source, target),
        lambda: target.copy_(source),
    ]
    return max(numbers.nbytes / _best(work, device, runs, deadline) for work in operations) / 1e9


def _test(device: str, name: str, working_set: int, deadline: float) -> DtypeResult:
    """The smoke test of one dtype. Raises what torch does, as for a dtype that the device does not have."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    generator = torch.Generator().manual_seed(0)
    # Made on the CPU, so that every device gets the same numbers; a block of columns, repeated, since float64 is slow.
    block = torch.randn(INTERMEDIATE // _BLOCKS, HIDDEN, generator=generator).to(dtype)  # [960, 3200]
    rows = torch.randn(ROWS, HIDDEN, generator=generator).to(dtype)  # [64, 3200]
    expected = rows.double() @ block.double().T  # [64, 960]
    weight, rows = block.to(device).repeat(_BLOCKS, 1), rows.to(device)  # [8640, 3200]

    product = rows @ weight.T  # [64, 8640]
    single = rows[:1] @ weight.T  # [1, 8640], another kernel
    finite = bool(torch.isfinite(product).all() and torch.isfinite(single).all())
    error = max(_relative_error(product, expected), _relative_error(single, expected[:1]))

    copies = [weight, *(weight.clone() for _ in range(max(0, working_set // weight.nbytes - 1)))]
    row = rows[:1]

    def decode() -> None:
        for matrix in copies:
            torch.mm(row, matrix.T)

    timed, prefill_s = _prefill(rows, weight, device, deadline)
    decode_s = _best(decode, device, 5, deadline) / len(copies)
    plain_s = None
    if torch.device(device).type == "cpu":
        # torch warns here of TF32 on Intel GPUs, whatever the machine.
        with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
            plain_s = _best(decode, device, 5, deadline) / len(copies)
    flop = 2 * HIDDEN * INTERMEDIATE
    return DtypeResult(
        ok=finite and error <= TOLERANCE[name],
        relative_error=error if finite else None,
        finite=finite,
        prefill_rows=timed,
        prefill_gflop_per_s=timed * flop / prefill_s / 1e9,
        decode_gflop_per_s=flop / decode_s / 1e9,
        decode_gb_per_s=weight.nbytes / decode_s / 1e9,
        decode_plain_gb_per_s=weight.nbytes / plain_s / 1e9 if plain_s else None,
    )


def _prefill(rows: "torch.Tensor", weight: "torch.Tensor", device: str, deadline: float) -> tuple[int, float]:
    """How many rows were timed, and the seconds for them: fewer than all if a dtype is very slow."""
    few = 8
    seconds = _best(lambda: rows[:few] @ weight.T, device, 1, deadline)
    if seconds * ROWS / few > _SLOW_S or time.perf_counter() > deadline:
        return few, seconds
    return ROWS, _best(lambda: rows @ weight.T, device, 3, deadline)


def _relative_error(found: "torch.Tensor", block: "torch.Tensor") -> float:
    """Of a product [n, 8640] from that of its first block of columns, [n, 960]."""
    expected = block.repeat(1, _BLOCKS)
    return float((found.cpu().double() - expected).norm() / expected.norm())


def _best(work: Callable[[], object], device: str, runs: int, deadline: float) -> float:
    """Seconds of the fastest of `runs` runs, after a warm-up; of fewer if they take long."""
    import torch

    kind = torch.device(device).type

    def once() -> float:
        started = time.perf_counter()
        work()
        if kind != "cpu":
            torch.accelerator.synchronize(device)
        return max(time.perf_counter() - started, 1e-9)

    fastest = spent = once()
    for _ in range(runs):
        if spent > _SLOW_S / 2 or time.perf_counter() > deadline:
            break
        seconds = once()
        fastest, spent = min(fastest, seconds), spent + seconds
    return fastest
