"""Which of torchrun's ranks this process is, and over how many ranks a model can be divided.

Nothing here imports torch: a number of processes that does not fit a model is refused before anything heavy happens.
"""

import math
import os
from dataclasses import dataclass

from openllama_cli.errors import UsageError
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.spec import ModelSpec


@dataclass(frozen=True)
class RankInfo:
    """One of the processes that torchrun started.

    rank: its number, from 0, among all of `size`. local_rank: among the `local_size` of this host.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def one_host(self) -> bool:
        return self.size == self.local_size


def rank_info() -> RankInfo | None:
    """What torchrun says in the environment; None in an ordinary run, and where torchrun started one process only."""
    try:
        rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    except (KeyError, ValueError):
        return None
    return RankInfo(rank, size, local_rank, local_size) if size > 1 else None


def sizes(shape: LlamaShape) -> list[int]:
    """The numbers of processes that a model can be divided over: all need the same number of heads."""
    most = math.gcd(shape.heads, shape.kv_heads)
    return [size for size in range(1, most + 1) if most % size == 0]


def check_ranks(shape: LlamaShape, spec: ModelSpec, name: str) -> None:
    """Raise UsageError if torchrun's processes cannot share a model, or not on the device asked for."""
    here = rank_info()
    if here is None:
        return
    if spec.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {spec.device}: under torchrun each process uses the GPU of its local rank, or all use the CPU",
            "use --device auto, cuda or cpu",
        )
    possible = sizes(shape)
    if here.size not in possible:
        *smaller, largest = map(str, possible)
        either = f"{', '.join(smaller)} or {largest} processes" if smaller else "1 process"
        heads = f"{shape.heads} heads" + (f" and {shape.kv_heads} key/value heads" if shape.kv_heads != shape.heads else "")
        raise UsageError(
            f"{name} cannot be split over {here.size} processes: its {heads} must divide evenly",
            f"start {either} in total (torchrun's --nproc-per-node times --nnodes)",
            code="world_size",
        )


def one_process_only(what: str) -> None:
    """Raise UsageError for an option or command that runs in one process, if torchrun started several."""
    here = rank_info()
    if here is not None:
        raise UsageError(f"{what} needs a single process, but torchrun started {here.size}", f"leave out {what}, or torchrun")
