"""The group of processes that hold one model together: how they meet, talk, and notice that one of them is gone.

Rank 0 leads. It alone runs a command; the others wait for its word, load their part of the model and then run the forward
passes that it tells them to. Orders go over a gloo group of their own, where waiting long is normal (rank 0 may wait for
whoever reads its output); the model's own sums go over nccl on GPUs and gloo on CPUs, where it is not.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import OlcError, Terminated
from openllama_cli.generation.distributed.processes import gone, hold_sigterm
from openllama_cli.models.loading.ranks import RankInfo

if TYPE_CHECKING:
    import torch


# Between two sums lies at most one layer. A process that is stopped, or a host that is gone, holds the others up for so long.
SUM_TIMEOUT = timedelta(seconds=120)
# The slowest rank may have a model to download; torchrun itself sees to it that no rank is waited for that has ended.
_PATIENCE = timedelta(days=10)
# Until every rank has imported torch and is there.
_MEETING = timedelta(minutes=10)
_ORDER_BYTES = 4096
# How torch, gloo and NCCL word what is no bug of anybody's here.
_BROKEN = ("gloo", "Gloo", "NCCL", "DistStoreError", "DistNetworkError", "Connection", "Socket", "Broken pipe")
_WORK, _FAILED = "olc/work", "olc/failed"


class Ranks:
    """This process's side of the group."""

    def __init__(self, info: RankInfo) -> None:
        """Connect to torchrun's store."""
        from torch.distributed.rendezvous import rendezvous

        self.info = info
        self.backend = ""
        self.device: torch.device
        # In the middle of something that needs all ranks: the others can be left only by ending.
        self.busy = False
        self._pids: dict[int, tuple[str, int]] = {}
        self._parent = os.getppid()
        if info.one_host:
            _stay_on_loopback()
        self._store: Any = next(iter(rendezvous("env://", timeout=_PATIENCE)))[0]
        self._orders: Any = None
        self._host = socket.gethostname()
        self._store.set(f"olc/rank/{info.rank}", json.dumps([self._host, os.getpid()]))

    def tell(self, work: dict[str, Any] | None) -> None:
        """Say to the waiting ranks what to load; None: nothing, they may go; {}: rank 0 has failed."""
        self._store.set(_WORK, json.dumps(work))

    def await_work(self) -> dict[str, Any] | None:
        """What rank 0 said with `tell`, as soon as it does."""
        self._store.wait([_WORK], _PATIENCE)
        work: dict[str, Any] | None = json.loads(self._store.get(_WORK))
        return work

    def join(self, kind: str) -> None:
        """Form the group, once all ranks are there. kind: "cuda" or "cpu". Raises OlcError if this host has no GPU for it."""
        import torch
        import torch.distributed as dist

        info = self.info
        self.backend = "nccl" if kind == "cuda" else "gloo"
        self.device = torch.device("cpu")
        if kind == "cuda":
            self.device = _own_gpu(info, self._host)
        with self.together():
            self._meet()
            dist.init_process_group(
                self.backend,
                store=self._store,
                rank=info.rank,
                world_size=info.size,
                timeout=SUM_TIMEOUT,
                device_id=self.device if kind == "cuda" else None,
            )
            self._orders = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def _meet(self) -> None:
        """Wait for all ranks to connect, and learn which processes they are. In Python, where a signal ends it."""
        ends = time.monotonic() + _MEETING.total_seconds()
        for rank in range(self.info.size):
            while not self._store.check([key := f"olc/rank/{rank}"]):
                if time.monotonic() > ends:
                    raise OlcError(
                        f"rank {rank} of {self.info.size} has not come within {_MEETING.total_seconds() / 60:.0f} minutes",
                        "see what torchrun says on its host, and run the same command again",
                        code="rank_lost",
                    )
                time.sleep(0.05)
            self._pids[rank] = tuple(json.loads(self._store.get(key)))

    def ready(self) -> None:
        """Wait until all ranks have come this far."""
        import torch.distributed as dist

        with self.together():
            dist.barrier(self._orders)

    def send(self, order: dict[str, Any]) -> None:
        """Tell the other ranks what to do next."""
        import torch
        import torch.distributed as dist

        data = json.dumps(order, separators=(",", ":")).encode()
        first = len(data).to_bytes(4, "little") + data[: _ORDER_BYTES - 4]
        dist.broadcast(torch.frombuffer(bytearray(first.ljust(_ORDER_BYTES, b"\0")), dtype=torch.uint8), 0, self._orders)
        if rest := data[_ORDER_BYTES - 4 :]:
            dist.broadcast(torch.frombuffer(bytearray(rest), dtype=torch.uint8), 0, self._orders)

    def orders(self) -> Iterator[dict[str, Any]]:
        """What rank 0 sends, until it says that it is done."""
        import torch
        import torch.distributed as dist

        while True:
            first = torch.empty(_ORDER_BYTES, dtype=torch.uint8)
            with self.together():
                dist.broadcast(first, 0, self._orders)
                size = int.from_bytes(bytes(first[:4].tolist()), "little")
                data = bytes(first[4 : 4 + size].tolist())
                if len(data) < size:
                    rest = torch.empty(size - len(data), dtype=torch.uint8)
                    dist.broadcast(rest, 0, self._orders)
                    data += bytes(rest.tolist())
            order = json.loads(data)
            if order is None:
                return
            yield order

    def leave(self) -> None:
        """End the group, with all ranks; rank 0 says so first."""
        import torch.distributed as dist

        with self.together():
            if self.info.rank == 0:
                self.send(None)  # type: ignore[arg-type]
            dist.barrier(self._orders)
            dist.destroy_process_group()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around what all ranks do at once. A failure in it is the end of the group.

        Raises OlcError saying which rank is gone or that memory ran out, and Terminated where another rank has said it.
        """
        self.busy = True
        try:
            yield
        except OlcError:
            raise
        except Exception as error:
            known = self._explain(error)
            if known is None:
                raise
            raise known from error
        self.busy = False

    def fail(self, problem: OlcError) -> None:
        """Leave word for rank 0 of why this rank is about to end."""
        with contextlib.suppress(Exception):
            self._store.set(_FAILED, json.dumps([problem.cause, problem.remedy]))

    def claim(self) -> bool:
        """Whether this process is the first on its host to say why the group ended; the others there keep quiet then."""
        try:
            return int(self._store.add(f"olc/said/{self._host}", 1)) == 1
        except Exception:  # The store went with torchrun, or with the host that has it.
            return self.info.rank == 0

    def lost(self, seconds: float = 0) -> OlcError | None:
        """Which process of this host is gone or stopped, if one is or becomes so in some seconds: torchrun, or a rank."""
        ends = time.monotonic() + seconds
        own = {rank: pid for rank, (host, pid) in self._pids.items() if host == self._host and rank != self.info.rank}
        while True:
            if os.getppid() != self._parent:
                return OlcError(
                    f"torchrun (process {self._parent} on {self._host}) was killed, and its processes end with it",
                    "run the same command again (a batch keeps its finished rows)",
                    code="rank_lost",
                )
            for rank, pid in own.items():
                if (how := gone(pid)) is not None:
                    return OlcError(
                        f"rank {rank} of {self.info.size} (process {pid} on {self._host}) {how}",
                        "run the same command again (a batch keeps its finished rows); `dmesg` knows if memory ran out",
                        code="rank_lost",
                    )
            if time.monotonic() >= ends:
                return None
            time.sleep(0.05)

    def _explain(self, error: Exception) -> BaseException | None:
        """What an exception in the middle of a sum means; None for a bug."""
        text = f"{type(error).__name__}: {error}"
        if "OutOfMemoryError" in text or "DefaultCPUAllocator" in text or isinstance(error, MemoryError):
            found = OlcError(
                f"rank {self.info.rank} on {self._host} ran out of memory",
                "use more processes, a smaller --batch-size, or --dtype bfloat16",
                code="out_of_memory",
            )
        elif any(word in text for word in _BROKEN):
            hold_sigterm()  # torchrun ends us any moment now.
            late = "imed out" in text or "imeout" in text
            found = self._word() or self.lost(0 if late else 2.0) or self._elsewhere(late=late)
        else:
            return None
        return found if self.claim() else Terminated()

    def _word(self) -> OlcError | None:
        """What a rank that failed has left word of, if one has."""
        with contextlib.suppress(Exception):
            if self._store.check([_FAILED]):
                return OlcError(*json.loads(self._store.get(_FAILED)))
        return None

    def _elsewhere(self, *, late: bool) -> OlcError:
        """No process of this host is gone."""
        hosts = sorted({host for host, _ in self._pids.values() if host != self._host})
        where = f"a rank on {', '.join(hosts)}" if hosts else f"a rank on {self._host}"
        how = f"has not answered for {SUM_TIMEOUT.total_seconds():.0f} s" if late else "was lost"
        return OlcError(f"{where} {how}", "see what torchrun says there, and run the same command again", code="rank_lost")


def _stay_on_loopback() -> None:
    """Let gloo listen on this computer alone, whatever its host name resolves to, unless the user chose an interface."""
    names = {name for _, name in socket.if_nameindex()} if hasattr(socket, "if_nameindex") else set()
    loopback = next((name for name in ("lo", "lo0") if name in names), None)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


def _own_gpu(info: RankInfo, host: str) -> "torch.device":
    import torch

    count = torch.cuda.device_count()
    if info.local_rank >= count:
        raise OlcError(
            f"torchrun started {info.local_size} processes on {host}, which has {count} GPU{'s' * (count != 1)}",
            f"use --nproc-per-node {max(count, 1)}, or --device cpu",
            code="device",
        )
    torch.cuda.set_device(info.local_rank)
    return torch.device("cuda", info.local_rank)
