"""The group of ranks that share one model: how they connect, communicate, and detect that one of them is gone.

Rank 0 is the leader. It alone runs the command line; the followers wait until it announces a model, load their shards of it and
run the forward passes that it commands. Commands go over a gloo group of their own, where waiting long is normal (the leader
may wait for whoever reads its output); the model's all_reduce goes over nccl on GPUs and gloo on CPUs, where it is not.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from openllama_cli.errors import OlcError, Terminated
from openllama_cli.generation.distributed.processes import how_gone, ignore_sigterm
from openllama_cli.models.loading.ranks import RankInfo
from openllama_cli.system.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch


# Between two all_reduce calls lies at most one layer. A process that is stopped, or a host that is gone, blocks the others for
# this long.
COLLECTIVE_TIMEOUT = timedelta(seconds=120)
# For announcements and commands: a rank may have to download the model first. torchrun ends all ranks when one has ended.
_COMMAND_TIMEOUT = timedelta(days=10)
# Until every rank has imported torch and connected.
_RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
# How long a killed process may take to end once its connections are closed: it gives back a GPU's memory, or waits for a core.
_ENDING_SECONDS = 10.0
# In messages of torch, gloo and NCCL about lost connections, as opposed to bugs.
_CONNECTION_ERRORS = ("gloo", "Gloo", "NCCL", "DistStoreError", "DistNetworkError", "Connection", "Socket", "Broken pipe")
_JOB, _FAILURE = "olc/job", "olc/failure"


class Group:
    """This rank's side of the group. led: the group that this process leads, once it has formed one."""

    led: ClassVar["Group | None"] = None

    def __init__(self, info: RankInfo) -> None:
        """Connect to torchrun's store."""
        from torch.distributed.rendezvous import rendezvous

        self.info = info
        self.device: torch.device
        # Inside a collective operation: this rank cannot leave the group in order, only end.
        self.busy = False
        self._pids: dict[int, tuple[str, int]] = {}
        self._parent = os.getppid()
        self.claimed = False  # Whether this rank is to say why the group ended.
        if info.one_host:
            _stay_on_loopback()
        self._store: Any = next(iter(rendezvous("env://", timeout=_COMMAND_TIMEOUT)))[0]
        self._command_group: Any = None
        self._host = socket.gethostname()
        self._store.set(f"olc/rank/{info.rank}", json.dumps([self._host, os.getpid()]))

    def announce(self, job: dict[str, Any] | None) -> None:
        """Tell the followers what to load. None: nothing, they may end; {}: the leader has failed."""
        self._store.set(_JOB, json.dumps(job))

    def wait_for_job(self) -> dict[str, Any] | None:
        """What the leader announces, as soon as it does."""
        self._store.wait([_JOB], _COMMAND_TIMEOUT)
        job: dict[str, Any] | None = json.loads(self._store.get(_JOB))
        return job

    def join(self, kind: str) -> None:
        """Form the group once all ranks are connected. kind: "cuda" or "cpu". Raises OlcError if this host has too few GPUs."""
        import torch
        import torch.distributed as dist

        info = self.info
        self.device = _own_gpu(info, self._host) if kind == "cuda" else torch.device("cpu")
        with self.collective():
            self._rendezvous()
            dist.init_process_group(
                "nccl" if kind == "cuda" else "gloo",
                store=self._store,
                rank=info.rank,
                world_size=info.size,
                timeout=COLLECTIVE_TIMEOUT,
                device_id=self.device if kind == "cuda" else None,
            )
            self._command_group = dist.new_group(backend="gloo", timeout=_COMMAND_TIMEOUT)

    def _rendezvous(self) -> None:
        """Wait until all ranks are connected, and learn their process ids. In Python, so that a signal interrupts it."""
        ends, minutes = time.monotonic() + _RENDEZVOUS_TIMEOUT.total_seconds(), _RENDEZVOUS_TIMEOUT.total_seconds() / 60
        for rank in range(self.info.size):
            while not self._store.check([key := f"olc/rank/{rank}"]):
                if time.monotonic() > ends:
                    raise OlcError(
                        f"rank {rank} of {self.info.size} did not connect within {minutes:.0f} minutes",
                        "check torchrun's output on its host, then run the same command again",
                        code="rank_lost",
                    )
                time.sleep(0.05)
            self._pids[rank] = tuple(json.loads(self._store.get(key)))

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        import torch.distributed as dist

        with self.collective():
            dist.barrier(self._command_group)

    def broadcast(self, command: dict[str, Any] | None) -> None:
        """The leader: send the followers their next command; None: no more follow."""
        import torch
        import torch.distributed as dist

        data = torch.frombuffer(bytearray(json.dumps(command).encode()), dtype=torch.uint8)
        for tensor in (torch.tensor([len(data)]), data):
            dist.broadcast(tensor, 0, self._command_group)

    def commands(self) -> Iterator[dict[str, Any]]:
        """A follower: the leader's commands, until there are no more."""
        import torch
        import torch.distributed as dist

        size = torch.tensor([0])
        while True:
            with self.collective():
                dist.broadcast(size, 0, self._command_group)
                data = torch.empty(int(size), dtype=torch.uint8)
                dist.broadcast(data, 0, self._command_group)
            command = json.loads(bytes(data.tolist()))
            if command is None:
                return
            yield command

    def leave(self) -> None:
        """End the group together with all ranks; the leader starts it."""
        import torch.distributed as dist

        with self.collective():
            if self.info.rank == 0:
                self.broadcast(None)
            dist.barrier(self._command_group)
            dist.destroy_process_group()

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        """A context for what all ranks do at once. A failure inside ends the group.

        Raises OlcError saying which rank is gone or that memory ran out, and Terminated if another rank reports that.
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

    def report_failure(self, problem: OlcError) -> None:
        """Tell the leader why this rank is about to end."""
        with contextlib.suppress(Exception):
            self._store.set(_FAILURE, json.dumps([problem.cause, problem.remedy]))

    def claim_report(self) -> bool:
        """Whether this rank is the first on its host to say why the group ended; the others there stay silent then."""
        try:
            first = int(self._store.add(f"olc/reported/{self._host}", 1)) == 1
        except Exception:  # The store ended with torchrun, or with the host that runs it.
            first = self.info.rank == 0
        self.claimed |= first
        return first

    def find_lost(self, seconds: float = 0) -> OlcError | None:
        """The error of a process of this host (torchrun or a rank) that is gone or stopped, or will be within some seconds."""
        ends = time.monotonic() + seconds
        own = {rank: pid for rank, (host, pid) in self._pids.items() if host == self._host and rank != self.info.rank}
        while True:
            if os.getppid() != self._parent:
                return OlcError(
                    f"torchrun (process {self._parent} on {self._host}) was killed, which ends its ranks",
                    "run the same command again (a batch keeps its finished rows)",
                    code="rank_lost",
                )
            for rank, pid in own.items():
                if (how := how_gone(pid)) is not None:
                    return OlcError(
                        f"rank {rank} of {self.info.size} (process {pid} on {self._host}) {how}",
                        "run the same command again (a batch keeps its finished rows); `dmesg` shows whether memory ran out",
                        code="rank_lost",
                    )
            if time.monotonic() >= ends:
                return None
            time.sleep(0.05)

    @property
    def _other_hosts(self) -> list[str]:
        return sorted({host for host, _ in self._pids.values() if host != self._host})

    def _explain(self, error: Exception) -> BaseException | None:
        """What an exception inside a collective operation means; None for a bug."""
        text = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            found = OlcError(
                f"rank {self.info.rank} on {self._host} ran out of memory",
                "use more processes, a smaller --batch-size, or --dtype bfloat16",
                code="out_of_memory",
            )
        elif any(word in text for word in _CONNECTION_ERRORS):
            ignore_sigterm()  # torchrun is about to end this rank.
            late = "imed out" in text or "imeout" in text
            wait = 0.0 if late else 2.0 if self._other_hosts else _ENDING_SECONDS
            found = self._reported_failure() or self.find_lost(wait) or self._lost_elsewhere(late=late)
        else:
            return None
        return found if self.claim_report() else Terminated()

    def _reported_failure(self) -> OlcError | None:
        """What another rank has passed to `report_failure`, if one has."""
        with contextlib.suppress(Exception):
            if self._store.check([_FAILURE]):
                return OlcError(*json.loads(self._store.get(_FAILURE)))
        return None

    def _lost_elsewhere(self, *, late: bool) -> OlcError:
        """The error if no process of this host is gone."""
        where = f"a rank on {', '.join(self._other_hosts or [self._host])}"
        how = f"has not answered for {COLLECTIVE_TIMEOUT.total_seconds():.0f} s" if late else "was lost"
        return OlcError(f"{where} {how}", "check torchrun's output there, then run the same command again", code="rank_lost")


def _stay_on_loopback() -> None:
    """Let gloo listen on loopback only, whatever the host name resolves to, unless the user chose an interface."""
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
