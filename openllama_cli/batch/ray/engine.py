"""The driver of the Ray engine: rows to workers, results to the journal, and new workers for lost ones.

    read rows → backlog → workers (actors, each with a model and the local engine's Runner) → results

Ray places the actors and says when one is gone. Everything that must be exact is here: which worker has which row, how often a
row was tried, and that its result is kept once. A worker answers one call at a time; results of a worker that was given up are
never looked at again, so a row that is retried cannot come back twice.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import ray
import ray.exceptions

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.output.results import Progress, Result, failure
from openllama_cli.batch.ray.backlog import MOST_RETRIES, Backlog
from openllama_cli.batch.ray.options import WorkerPlan
from openllama_cli.batch.ray.worker import LoadFailure, RayWorker, Ready, Reply, Setup, WorkerInfo
from openllama_cli.errors import OlcError
from openllama_cli.version import __version__

# Between two looks at signals, clocks and replies.
_TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Timeouts:
    """Seconds until a worker counts as lost: without a place, without its model, without any reply, without a next token."""

    place: float = 60
    load: float = 3600
    reply: float = 120
    token: float = 600


@dataclass
class _Worker:
    """An actor. call: not answered yet; step: what it asks. replied, progressed: when it last did. rows: its own, by index."""

    actor: Any
    call: Any
    step: str = "info"
    replied: float = field(default_factory=time.monotonic)
    progressed: float = field(default_factory=time.monotonic)
    heartbeats: int = 0
    info: WorkerInfo | None = None
    ready: Ready | None = None
    rows: dict[int, Row] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.info.host if self.info else "a machine of the cluster"


@dataclass
class RayRunner:
    """Completes rows on a cluster that `cluster.connect` joined; to be closed.

    rows: how many there are to do. keep, stopping, notice, progress: as in `runner.Runner`. worker: the actor's class.
    wanted: how many workers it tries to have, at most one a row. begin: called with the different surroundings in which workers
    run, whenever there is one more.
    """

    setup: Setup
    plan: WorkerPlan
    rows: int
    keep: Callable[[Result], object]
    stopping: Callable[[], bool] = lambda: False
    notice: Callable[[str], None] = lambda text: None
    begin: Callable[[Sequence[Mapping[str, Any]]], object] = lambda places: None
    timeouts: Timeouts = Timeouts()
    worker: type[RayWorker] = RayWorker
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.wanted = max(1, min(self.plan.workers, self.rows))
        self._workers: list[_Worker] = []
        self._places: list[Mapping[str, Any]] = []
        self._dtype: str | None = None
        self._losses = self._failed_starts = 0
        self._warned_of_place = self._warned_of_torch = False
        options: dict[str, Any] = {"num_cpus": self.plan.cpus, "num_gpus": self.plan.gpus}
        if self.plan.memory:
            options["memory"] = self.plan.memory
        self._actor = ray.remote(self.worker).options(max_restarts=0, max_task_retries=0, **options)

    @property
    def loaded_workers(self) -> int:
        """How many workers have loaded the model."""
        return sum(worker.ready is not None for worker in self._workers)

    def run(self, rows: Iterable[Row]) -> Iterator[Progress]:
        """Work through all rows; yields the counts a few times a second.

        Raises OlcError where no worker can be placed, none can load the model, or workers are lost again and again.
        """
        backlog = Backlog(rows)
        while any(worker.rows for worker in self._workers) or not (self.stopping() or backlog.empty):
            self._start_workers(backlog)
            for worker in self._replied():
                self._handle_reply(worker, backlog)
            for worker in list(self._workers):
                self._check(worker, backlog)
            yield self.progress

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            self._kill(worker)
        self._workers.clear()

    def _start_workers(self, backlog: Backlog) -> None:
        while len(self._workers) < self.wanted and not backlog.empty and not self.stopping():
            actor: Any = self._actor.remote()
            self._workers.append(_Worker(actor, actor.info.remote()))

    def _replied(self) -> list[_Worker]:
        """Workers whose calls are answered, after a moment of waiting for the first."""
        calls = {worker.call: worker for worker in self._workers if worker.call is not None}
        if not calls:
            # All workers wait for rows that a lost one may leave.
            time.sleep(_TICK_SECONDS / 5)
            return []
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=_TICK_SECONDS)
        if ready and len(calls) > 1:
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return [calls[call] for call in ready]

    def _handle_reply(self, worker: _Worker, backlog: Backlog) -> None:
        """Handle a worker's reply, and make the next call."""
        call, worker.call = worker.call, None
        try:
            reply = ray.get(call)
        except ray.exceptions.RayTaskError:
            raise  # A bug: it keeps the worker's traceback.
        except ray.exceptions.RayError as error:
            self._lose(worker, _reason(error), backlog)
            return
        worker.replied = time.monotonic()
        if isinstance(reply, WorkerInfo):
            self._handle_info(worker, reply)
        elif isinstance(reply, LoadFailure):
            self._handle_load_failure(worker, reply)
        elif isinstance(reply, Ready):
            self._handle_ready(worker, reply)
        else:
            self._handle_results(worker, reply, backlog)
        if worker in self._workers and worker.ready is not None:
            self._send_rows(worker, backlog)

    def _handle_info(self, worker: _Worker, info: WorkerInfo) -> None:
        worker.info = info
        if info.version != __version__:
            raise _other_version(f"the worker on {info.host} has olc {info.version}, this machine {__version__}")
        with contextlib.suppress(metadata.PackageNotFoundError):
            here = metadata.version("torch")
            if info.torch != here and not self._warned_of_torch:
                self._warned_of_torch = True
                self.notice(
                    f"the worker on {info.host} has torch {info.torch}, this machine {here}: results may differ slightly"
                )
        worker.step, worker.call = "load", worker.actor.load.remote(self.setup)

    def _handle_load_failure(self, worker: _Worker, failed: LoadFailure) -> None:
        """A worker that cannot load ends the run, unless others work: a machine that joined later may lack the model."""
        cause = f"the worker on {worker.host}: {failed.cause}"
        self._drop(worker)
        if self._dtype is None or self.wanted == 1:
            model = "" if failed.code == "device" else "; every machine needs the model"
            raise OlcError(cause, failed.remedy + model, code=failed.code)
        self.wanted -= 1
        self.notice(f"{cause}; continuing with {self.wanted} workers")

    def _handle_ready(self, worker: _Worker, ready: Ready) -> None:
        if self._dtype is None:
            self._dtype = ready.dtype
        elif ready.dtype != self._dtype:
            raise OlcError(
                f"the worker on {worker.host} chose --dtype {ready.dtype}, but the first worker chose {self._dtype}",
                f"set --dtype {self._dtype}, with --restart",
                code="worker_dtype",
            )
        if ready.place and ready.place not in self._places:
            self._places.append(ready.place)
            self.begin(list(self._places))
        worker.ready, worker.step = ready, "exchange"
        self._failed_starts = 0

    def _handle_results(self, worker: _Worker, reply: Reply, backlog: Backlog) -> None:
        for result in reply.results:
            del worker.rows[result.index]
            self.keep(result)
            self.progress.count(result)
            self._losses = 0
        self.progress.tokens += reply.tokens
        if reply.heartbeats != worker.heartbeats:
            worker.heartbeats, worker.progressed = reply.heartbeats, time.monotonic()
        if reply.broken is not None:
            self._lose(worker, reply.broken, backlog)
        elif self.stopping() and reply.idle:
            worker.rows.clear()  # Never begun.

    def _send_rows(self, worker: _Worker, backlog: Backlog) -> None:
        """Give a worker more rows, and ask for results; nothing is asked of one that has no rows."""
        assert worker.ready is not None
        fresh: list[Row] = []
        if not self.stopping():
            # Another batch waits at the worker, so that no place stays empty for the time of a reply. Near the end of the input
            # all workers get their part of what is left.
            waiting = self.rows - self.progress.rows - sum(len(other.rows) for other in self._workers if other is not worker)
            most = max(1, min(2 * worker.ready.batch_size, -(-waiting // self.wanted)))
            fresh = backlog.pop(worker.rows.values(), worker.ready.batch_size, most)
            if fresh and not worker.rows:
                worker.progressed = time.monotonic()
            worker.rows |= {row.index: row for row in fresh}
        if worker.rows:
            worker.replied = time.monotonic()
            worker.call = worker.actor.exchange.remote(fresh, last=self.stopping())

    def _check(self, worker: _Worker, backlog: Backlog) -> None:
        """Give rows to a worker that has none, and give up one that shows no sign of life for too long."""
        if worker.call is None and worker.ready is not None:
            self._send_rows(worker, backlog)
            return
        now, limit = time.monotonic(), self.timeouts
        silent, still = now - worker.replied, now - worker.progressed
        if worker.step == "info" and silent > limit.place:
            self._handle_no_place(worker)
        elif worker.step == "load" and silent > limit.load:
            self._lose(worker, f"its model did not load within {limit.load:.0f} s", backlog, hangs=True)
        elif worker.step == "exchange" and worker.rows and silent > limit.reply:
            self._lose(worker, f"no reply for {limit.reply:.0f} s", backlog, hangs=True)
        elif worker.step == "exchange" and worker.rows and still > limit.token:
            self._lose(worker, f"no token for {limit.token:.0f} s", backlog, hangs=True)

    def _handle_no_place(self, worker: _Worker) -> None:
        """A worker for which Ray finds no place: others continue without it, and it may still come; alone it is an error."""
        shortage = self.plan.shortage(ray.cluster_resources(), ray.available_resources())
        placed = sum(other.step != "info" for other in self._workers)
        if not placed:
            raise OlcError(
                f"no worker could be scheduled within {self.timeouts.place:.0f} s: {shortage}",
                "free or add machines (`ray status` shows them), or use fewer --workers",
                code="no_place_for_workers",
            )
        worker.replied = time.monotonic()
        if not self._warned_of_place:
            self._warned_of_place = True
            self.notice(f"{placed} of {self.wanted} workers could be scheduled: {shortage}")

    def _lose(self, worker: _Worker, reason: str, backlog: Backlog, *, hangs: bool = False) -> None:
        """Give up a worker; its rows are retried elsewhere, those that were tried too often become error rows."""
        self._drop(worker, hangs=hangs)
        rows, worker.rows = list(worker.rows.values()), {}
        if self.stopping():
            return
        self.notice(f"lost the worker on {worker.host} ({reason}); retrying {len(rows)} rows")
        for row in backlog.lose(rows):
            message = f"this row was lost with {MOST_RETRIES + 1} workers; the last one: {reason}"
            result = failure(row, "worker_lost", message)
            self.keep(result)
            self.progress.count(result)
        self._losses += 1
        self._failed_starts += worker.ready is None
        if self._losses > 16 + 4 * self.wanted or self._failed_starts > 3 + self.wanted:
            raise OlcError(
                f"lost {self._losses} workers without finishing a row; the last one: {reason}",
                "check the workers' logs and memory; the same command resumes the batch",
                code="workers_lost",
            )

    def _drop(self, worker: _Worker, *, hangs: bool = False) -> None:
        self._workers.remove(worker)
        # A process that hangs does not hear Ray, and would keep its place and its memory.
        with contextlib.suppress(OSError):
            if hangs and worker.info is not None and worker.info.node == ray.get_runtime_context().get_node_id():
                os.kill(worker.info.pid, signal.SIGKILL)
        self._kill(worker)

    def _kill(self, worker: _Worker) -> None:
        with contextlib.suppress(Exception):  # It may be gone, with its machine or with all of Ray.
            ray.kill(worker.actor, no_restart=True)


def _reason(error: ray.exceptions.RayError) -> str:
    """Why Ray says a worker is gone, in a few words; it says it in many lines. Raises OlcError where olc is missing there."""
    text = str(error)
    if "No module named 'openllama_cli" in text or ("openllama_cli" in text and "failed to import" in text):
        raise _other_version("openllama_cli is missing on a worker's machine, or has a different version")
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "memory on the node" in text:
        return "Ray killed it: its machine ran out of memory"
    if "node has died" in text or "node was" in text or "node failure" in text:
        return "lost its machine"
    return "its process ended"


def _other_version(cause: str) -> OlcError:
    remedy = f"install the same version on every machine: pip install openllama-cli=={__version__}"
    return OlcError(cause, remedy, code="worker_version")
