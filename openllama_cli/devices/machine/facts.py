"""What is known of a machine: plain data that a probe fills in and that everything else only reads.

Sizes are bytes, speeds 10⁹ per second (GB/s, GFLOP/s), devices have torch's names ("cpu", "cuda:0", "mps").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "info"]
BuildKind = Literal["cpu", "cuda", "rocm", "xpu", "metal"]


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch.

    version: None if it cannot be imported. kind, toolkit: what it was built for ("cuda", "12.8"). arch_list: the GPU
    architectures it has kernels for ("sm_90", "compute_120"). trouble: in torch's words, why it cannot be imported or does not
    find the GPU that it was built for.
    """

    version: str | None
    kind: BuildKind = "cpu"
    toolkit: str | None = None
    arch_list: tuple[str, ...] = ()
    trouble: str | None = None


@dataclass(frozen=True)
class Cpu:
    """The processor and its memory.

    allowed_cores: logical ones that this process may run on (affinity). cpu_limit: processors' worth of time that a container
    grants, None without a limit. threads: what torch uses; None without torch. kernels: the instruction set that torch chose
    ("AVX512", "DEFAULT"). own_kernels: whether olc's own kernels run, None if they are not for this processor; tier:
    what they are compiled for ("AVX2"), if they run.
    memory_available: without swapping, as the system reports it, which ignores a container's limit; memory_limit, memory_left:
    of the container, None without a limit.
    """

    name: str
    architecture: str
    physical_cores: int
    logical_cores: int
    allowed_cores: int
    cpu_limit: float | None
    threads: int | None
    instruction_sets: tuple[str, ...]
    kernels: str | None
    memory_total: int
    memory_available: int
    memory_limit: int | None = None
    memory_left: int | None = None
    own_kernels: bool | None = None
    tier: str | None = None

    @property
    def usable_cores(self) -> int:
        """Physical cores that this process can actually use, at least one."""
        cores = min(self.physical_cores, self.allowed_cores)
        if self.cpu_limit is not None:
            cores = min(cores, round(self.cpu_limit + 0.49))
        return max(1, cores)

    @property
    def memory_free(self) -> int:
        """What can be used before the system swaps or a container's limit ends the process."""
        return self.memory_available if self.memory_left is None else min(self.memory_available, self.memory_left)


@dataclass(frozen=True)
class Accelerator:
    """A GPU that torch can use. capability: CUDA's, "8.6". shares_memory: with the CPU (Apple, integrated)."""

    device: str
    name: str
    capability: str | None
    memory_total: int
    memory_free: int
    shares_memory: bool = False


@dataclass(frozen=True)
class Nvidia:
    """The NVIDIA GPUs of the system, whether or not torch can use them.

    driver: its version; None if none is loaded. cuda: the newest CUDA that the driver supports, by nvidia-smi. gpus: names.
    """

    driver: str | None
    cuda: str | None
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Cache:
    """The Hub's model cache.

    writable: for a missing folder, whether it could be created. free_bytes: on its disk; None if unknown. largest: the cached
    model that takes the most space, with its bytes. incomplete: models that lack files. offline: the variable that forbids
    network access. token: where one is ("HF_TOKEN", "saved"), never the token itself.
    """

    path: str
    exists: bool
    writable: bool
    free_bytes: int | None
    models: int
    largest: tuple[str, int] | None
    incomplete: tuple[str, ...]
    offline: str | None
    token: str | None
    endpoint: str


@dataclass(frozen=True)
class Check:
    """Something that was tried: "sentencepiece", "protobuf", "demo model". detail: the result, or the error."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class DtypeResult:
    """The smoke test of one dtype on one device.

    relative_error: of a matmul against float64, root mean square. ok: computed, finite and within tolerance.
    prefill: 64 rows × 3200 by 3200 × 8640 (`prefill_rows` says how many rows were timed). decode: one row.
    decode_plain_gb_per_s: the same without oneDNN, on a CPU. error: what torch raised.
    """

    ok: bool
    relative_error: float | None = None
    finite: bool | None = None
    prefill_rows: int | None = None
    prefill_gflop_per_s: float | None = None
    decode_gflop_per_s: float | None = None
    decode_gb_per_s: float | None = None
    decode_plain_gb_per_s: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured on one device. bandwidth_gb_per_s: of its memory, far beyond cache sizes, the best of several runs.

    measured_s: how long that took.
    """

    bandwidth_gb_per_s: float | None
    dtypes: dict[str, DtypeResult]
    measured_s: float


@dataclass(frozen=True)
class Facts:
    """All that a probe found. backends: of torch.distributed. measured: by device, empty where nothing was measured."""

    versions: Mapping[str, str | None]
    torch: TorchBuild
    cpu: Cpu
    accelerators: tuple[Accelerator, ...]
    nvidia: Nvidia | None
    backends: Mapping[str, bool]
    cache: Cache
    checks: tuple[Check, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Measurement] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something wrong. severity: an "error" stops a completion. fix: what to type, with commands in backticks."""

    severity: Severity
    code: str
    message: str
    fix: str
