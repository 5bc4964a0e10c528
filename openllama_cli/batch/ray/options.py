"""The options of `--engine ray`, checked without importing Ray, and how many workers a cluster has room for."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openllama_cli.errors import UsageError

# Python, torch and transformers in a process of their own, before any weights.
_PROCESS_BYTES = 800 * 2**20
_MOST_WORKERS = 4096


@dataclass(frozen=True)
class RayOptions:
    """address: None starts a cluster on this machine; "auto" or "HOST:PORT" joins one. workers: None is as many as fit.

    Raises UsageError naming the flag.
    """

    address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= _MOST_WORKERS:
            raise UsageError(f"--workers {self.workers} is out of range", f"give a number from 1 to {_MOST_WORKERS}")
        if self.address is not None and self.address != "auto":
            host_and_port(self.address)


def parse_engine(engine: str, address: str | None, workers: int | None) -> RayOptions | None:
    """The options of the Ray engine, or None for the local one. Raises UsageError, also where Ray is not installed."""
    if engine not in ("local", "ray"):
        raise UsageError(f"unknown --engine {engine}", "use local or ray")
    if engine == "local":
        for flag, value in (("--ray-address", address), ("--workers", workers)):
            if value is not None:
                raise UsageError(f"{flag} {value} needs --engine ray", f"add it, or leave out {flag}")
        return None
    options = RayOptions(address, workers)
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "--engine ray needs Ray, which is not installed", 'pip install "openllama-cli[ray]"', code="ray_missing"
        )
    return options


def host_and_port(address: str) -> tuple[str, int]:
    """The two halves of HOST:PORT ([::1]:6379 for IPv6). Raises UsageError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", address)
    if match is None or not 1 <= int(match.group(3)) <= 65535:
        raise UsageError(
            f"--ray-address {address} is not an address",
            "give auto, or HOST:PORT as `ray start --head` prints it",
        )
    return match.group(1) or match.group(2), int(match.group(3))


@dataclass(frozen=True)
class Node:
    """What a machine of the cluster offers: CPUs, GPUs, bytes of memory that Ray may give away."""

    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True)
class WorkerPlan:
    """workers: how many. cpus, gpus, memory: what each asks Ray for (memory 0: not asked). per_node: most on one machine."""

    workers: int
    cpus: int
    gpus: int
    memory: int
    per_node: int

    def shortage(self, have: Mapping[str, float], free: Mapping[str, float]) -> str:
        """What one worker needs beside what the cluster has and has free, by Ray's names of resources."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        asked = {name: value for name, value in asked.items() if value}
        needs = ", ".join(_amount(name, value) for name, value in asked.items())
        offers = ", ".join(f"{_amount(name, free.get(name, 0))} of {_amount(name, have.get(name, 0))} free" for name in asked)
        return f"each needs {needs}; the cluster has {offers}"


def _amount(name: str, value: float) -> str:
    return f"{value / 2**30:.1f} GiB memory" if name == "memory" else f"{value:g} {name}"


def plan_workers(nodes: Sequence[Node], wanted: int | None, worker_bytes: int, *, gpu: bool) -> WorkerPlan:
    """Share a cluster out among workers.

    wanted: --workers; None is a worker per GPU where there are GPUs, else as many as fit into each machine's memory, one a CPU
    at the most. worker_bytes: of one worker. gpu: whether the model may go to GPUs.

    The CPUs are shared out evenly: each worker gets as many threads as still lets all be placed.
    """
    on_gpus = gpu and any(node.gpus >= 1 for node in nodes)
    # Who names a number knows better than an estimate.
    memory = 0 if on_gpus or wanted is not None else worker_bytes

    def places(cpus: int) -> list[int]:
        """How many workers of so many CPUs each machine takes."""
        if on_gpus:
            return [min(int(node.cpus) // cpus, int(node.gpus)) for node in nodes]
        return [min(int(node.cpus) // cpus, int(node.memory // memory) if memory else _MOST_WORKERS) for node in nodes]

    workers = wanted or sum(places(1))
    if not workers:
        # One that is too large by the estimate may still try.
        workers, memory = 1, 0
    most = max((int(node.cpus) for node in nodes), default=1)
    cpus = 1 if on_gpus else next((cpus for cpus in range(most, 1, -1) if sum(places(cpus)) >= workers), 1)
    return WorkerPlan(workers, cpus, int(on_gpus), memory, per_node=min(workers, max(places(cpus), default=1)) or 1)


def worker_bytes(parameters: int, dtype: str) -> int:
    """Memory of one worker: its weights, caches for some rows, and the process. dtype: --dtype; auto counts as float32."""
    return int(parameters * (2 if dtype in ("float16", "bfloat16") else 4) * 1.1) + _PROCESS_BYTES
