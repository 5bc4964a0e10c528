"""The driver of the Ray engine: rows to workers, results to the journal, and new workers for lost ones.

    read rows → backlog → workers (actors, each with a model and the local engine's Runner) → the journal

Ray places the actors and says when one is gone. Everything that must be exact is here: which worker has which row, how often a
row was tried, and that its result is kept once. A worker answers one call at a time; results of a worker that was given up are
never looked at again, so a row that is done again cannot come back twice.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
import ray.exceptions

from openllama_cli import __version__
from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.ray.backlog import MOST_RETRIES, Backlog, Job
from openllama_cli.batch.ray.options import WorkerPlan
from openllama_cli.batch.ray.worker import Answer, Greeting, RayWorker, Ready, Refusal, Setup
from openllama_cli.errors import OlcError

if TYPE_CHECKING:
    from openllama_cli.batch.output.lines import Results


# Between two looks at signals, clocks and answers.
_TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Patience:
    """Seconds until something counts as lost: a place for a worker, its model's loading, any answer, a next token."""

    place: float = 60
    load: float = 3600
    silent: float = 120
    stall: float = 600


@dataclass
class Progress:
    """What `runner.Progress` is. That module brings torch along, which the driver has no use for."""

    rows: int = 0
    failed: int = 0
    tokens: int = 0


@dataclass
class _Worker:
    """An actor. call: the one that is not answered yet; step: what it asks. since: of the last sign of life."""

    actor: Any
    call: Any
    step: str = "hello"
    since: float = field(default_factory=time.monotonic)
    answered: float = field(default_factory=time.monotonic)
    beats: int = 0
    greeting: Greeting | None = None
    ready: Ready | None = None
    jobs: dict[int, Job] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.greeting.host if self.greeting else "a machine of the cluster"


@dataclass
class RayRunner:
    """Completes rows on a cluster that `ray_cluster.connect` joined; to be closed.

    rows: how many there are to do. results, stopping, notice, progress: as in `runner.Runner`. worker: the actor's class.
    wanted: how many workers it tries to have, at most one a row.
    """

    setup: Setup
    plan: WorkerPlan
    rows: int
    results: "Results"
    stopping: Callable[[], bool] = lambda: False
    notice: Callable[[str], None] = lambda text: None
    patience: Patience = Patience()
    worker: type[RayWorker] = RayWorker
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.wanted = max(1, min(self.plan.workers, self.rows))
        self._workers: list[_Worker] = []
        self._dtype: str | None = None
        self._losses = self._failed_starts = 0
        self._told_of_room = self._told_of_torch = False
        options: dict[str, Any] = {"num_cpus": self.plan.cpus, "num_gpus": self.plan.gpus}
        if self.plan.memory:
            options["memory"] = self.plan.memory
        self._actor = ray.remote(self.worker).options(max_restarts=0, max_task_retries=0, **options)

    def run(self, rows: Iterable[Row]) -> Iterator[Progress]:
        """Work through all rows; yields the counts a few times a second.

        Raises OlcError where no worker can be placed, none can load the model, or workers are lost again and again.
        """
        backlog = Backlog(rows)
        while not self._finished(backlog):
            self._hire(backlog)
            for worker in self._answered():
                self._hear(worker, backlog)
            for worker in list(self._workers):
                self._watch(worker, backlog)
            yield self.progress

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            self._kill(worker)
        self._workers.clear()

    def _finished(self, backlog: Backlog) -> bool:
        if any(worker.jobs for worker in self._workers):
            return False
        return self.stopping() or backlog.empty

    def _hire(self, backlog: Backlog) -> None:
        while len(self._workers) < self.wanted and not backlog.empty and not self.stopping():
            actor: Any = self._actor.remote()
            self._workers.append(_Worker(actor, actor.hello.remote()))

    def _answered(self) -> list[_Worker]:
        """Workers whose calls are answered, after a moment of waiting for the first."""
        calls = {worker.call: worker for worker in self._workers if worker.call is not None}
        if not calls:
            self._rest()
            return []
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=_TICK_SECONDS)
        if ready and len(calls) > 1:
            ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return [calls[call] for call in ready]

    def _rest(self) -> None:
        """Nothing is under way: all workers wait for rows that a lost worker may leave."""
        time.sleep(_TICK_SECONDS / 5)

    def _hear(self, worker: _Worker, backlog: Backlog) -> None:
        """Take an answer, and ask for the next one."""
        call, worker.call = worker.call, None
        try:
            answer = ray.get(call)
        except ray.exceptions.RayTaskError:
            raise  # A bug: it keeps the worker's traceback.
        except ray.exceptions.RayError as error:
            _refuse_missing_olc(error)
            self._lose(worker, _reason(error), backlog)
            return
        worker.answered = time.monotonic()
        if isinstance(answer, Greeting):
            self._greet(worker, answer)
        elif isinstance(answer, Refusal):
            self._refused(worker, answer)
        elif isinstance(answer, Ready):
            self._start(worker, answer)
        else:
            self._keep(worker, answer, backlog)
        if worker in self._workers and worker.ready is not None:
            self._feed(worker, backlog)

    def _greet(self, worker: _Worker, greeting: Greeting) -> None:
        worker.greeting = greeting
        if greeting.version != __version__:
            raise OlcError(
                f"the worker on {greeting.host} has olc {greeting.version}, and this is {__version__}",
                f"install the same on every machine: pip install openllama-cli=={__version__}",
                code="worker_version",
            )
        self._check_torch(greeting)
        worker.step, worker.call = "load", worker.actor.load.remote(self.setup)

    def _check_torch(self, greeting: Greeting) -> None:
        from importlib import metadata

        with contextlib.suppress(metadata.PackageNotFoundError):
            here = metadata.version("torch")
            if greeting.torch != here and not self._told_of_torch:
                self._told_of_torch = True
                self.notice(f"the worker on {greeting.host} has torch {greeting.torch}, here it is {here}: numbers may differ")

    def _refused(self, worker: _Worker, refusal: Refusal) -> None:
        """A worker that cannot load ends the run, unless others work: a machine that joined later may lack the model."""
        cause = f"the worker on {worker.host}: {refusal.cause}"
        self._drop(worker)
        if self._dtype is None or self.wanted == 1:
            model = "" if refusal.code == "device" else "; every machine needs the model"
            raise OlcError(cause, refusal.remedy + model, code=refusal.code)
        self.wanted -= 1
        self.notice(f"{cause}; going on with {self.wanted} workers")

    def _start(self, worker: _Worker, ready: Ready) -> None:
        if self._dtype is None:
            self._dtype = ready.dtype
        elif ready.dtype != self._dtype:
            raise OlcError(
                f"the worker on {worker.host} chose --dtype {ready.dtype}, the first one {self._dtype}",
                f"give the type: --dtype {self._dtype}, with --restart",
                code="worker_dtype",
            )
        worker.ready, worker.step = ready, "exchange"
        self._failed_starts = 0

    def _keep(self, worker: _Worker, answer: Answer, backlog: Backlog) -> None:
        for index, code, line in answer.results:
            del worker.jobs[index]
            self.results.append(index, code, line)
            self.progress.rows += 1
            self.progress.failed += code is not None
            self._losses = 0
        self.progress.tokens += answer.tokens
        if answer.beats != worker.beats:
            worker.beats, worker.since = answer.beats, time.monotonic()
        if answer.broken is not None:
            self._lose(worker, answer.broken, backlog)
        elif self.stopping() and answer.idle:
            worker.jobs.clear()  # Never begun.

    def _feed(self, worker: _Worker, backlog: Backlog) -> None:
        """Give a worker more rows, and ask for results; nothing is asked of one that has no rows."""
        assert worker.ready is not None
        fresh: list[Job] = []
        if not self.stopping():
            # As many again as run wait at the worker, so that no place stays empty for the time of an answer. Near the end of
            # the input all workers get their part of what is left.
            waiting = self.rows - self.progress.rows - sum(len(other.jobs) for other in self._workers if other is not worker)
            most = max(1, min(2 * worker.ready.rows, -(-waiting // self.wanted)))
            fresh = backlog.take(worker.jobs.values(), worker.ready.rows, most)
            if fresh and not worker.jobs:
                worker.since = time.monotonic()
            worker.jobs |= {job.row.index: job for job in fresh}
        if worker.jobs:
            worker.answered = time.monotonic()
            worker.call = worker.actor.exchange.remote([job.row for job in fresh], last=self.stopping())

    def _watch(self, worker: _Worker, backlog: Backlog) -> None:
        """Wake a worker that rests; give up one that shows no sign of life for too long."""
        if worker.call is None and worker.ready is not None:
            self._feed(worker, backlog)
            return
        now, patience = time.monotonic(), self.patience
        silent, still = now - worker.answered, now - worker.since
        if worker.step == "hello" and silent > patience.place:
            self._not_placed(worker)
        elif worker.step == "load" and silent > patience.load:
            self._lose(worker, f"its model did not load within {patience.load:.0f} s", backlog, hangs=True)
        elif worker.step == "exchange" and worker.jobs and silent > patience.silent:
            self._lose(worker, f"no answer for {patience.silent:.0f} s", backlog, hangs=True)
        elif worker.step == "exchange" and worker.jobs and still > patience.stall:
            self._lose(worker, f"no token for {patience.stall:.0f} s", backlog, hangs=True)

    def _not_placed(self, worker: _Worker) -> None:
        """A worker for which Ray finds no place: others go on without it, and it may still come; alone it is an error."""
        have, free = ray.cluster_resources(), ray.available_resources()
        asked = {"CPU": self.plan.cpus, "GPU": self.plan.gpus, "memory": self.plan.memory}
        needs = ", ".join(_amount(name, value) for name, value in asked.items() if value)
        offers = ", ".join(
            f"{_amount(name, free.get(name, 0))} of {_amount(name, have.get(name, 0))} free"
            for name, value in asked.items()
            if value
        )
        working = sum(other.step != "hello" for other in self._workers)
        if working:
            worker.answered = time.monotonic()
            if not self._told_of_room:
                self._told_of_room = True
                self.notice(f"{working} of {self.wanted} workers have a place: one needs {needs}; the cluster has {offers}")
            return
        raise OlcError(
            f"no worker found a place in {self.patience.place:.0f} s: one needs {needs}; the cluster has {offers}",
            "free or add machines (`ray status` shows them), or give fewer --workers",
            code="no_place_for_workers",
        )

    def _lose(self, worker: _Worker, reason: str, backlog: Backlog, *, hangs: bool = False) -> None:
        """Give up a worker; its rows are done again elsewhere, those that were tried too often become error rows."""
        self._drop(worker, hangs=hangs)
        if self.stopping():
            worker.jobs.clear()
            return
        self.notice(f"the worker on {worker.host} was lost ({reason}); {len(worker.jobs)} rows are done again")
        for job in backlog.lose(worker.jobs.values()):
            self._give_up(job.row, reason)
        worker.jobs.clear()
        self._losses += 1
        self._failed_starts += worker.ready is None
        if self._losses > 16 + 4 * self.wanted or self._failed_starts > 3 + self.wanted:
            raise OlcError(
                f"{self._losses} workers were lost and no row was finished between; the last one: {reason}",
                "look into the workers' logs and the machines' memory; the same command goes on with what is done",
                code="workers_lost",
            )

    def _give_up(self, row: Row, reason: str) -> None:
        from openllama_cli.batch.output.lines import error_line

        message = f"{MOST_RETRIES + 1} workers were lost with this row; the last one: {reason}"
        self.results.append(row.index, "worker_lost", error_line(row, "worker_lost", message))
        self.progress.rows += 1
        self.progress.failed += 1

    def _drop(self, worker: _Worker, *, hangs: bool = False) -> None:
        self._workers.remove(worker)
        greeting = worker.greeting
        # A process that hangs does not hear Ray, and would keep its place and its memory.
        with contextlib.suppress(OSError):
            if hangs and greeting is not None and greeting.node == ray.get_runtime_context().get_node_id():
                os.kill(greeting.pid, signal.SIGKILL)
        self._kill(worker)

    def _kill(self, worker: _Worker) -> None:
        with contextlib.suppress(Exception):  # It may be gone, with its machine or with all of Ray.
            ray.kill(worker.actor, no_restart=True)


def _amount(name: str, value: float) -> str:
    return f"{value / 2**30:.1f} GiB memory" if name == "memory" else f"{value:g} {name}"


def _reason(error: ray.exceptions.RayError) -> str:
    """Why Ray says a worker is gone, in a few words; it says it in many lines."""
    text = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "memory on the node" in text:
        return "Ray ended it: its machine's memory ran out"
    if "node has died" in text or "node was" in text or "node failure" in text:
        return "its machine was lost"
    return "its process ended"


def _refuse_missing_olc(error: ray.exceptions.RayError) -> None:
    text = str(error)
    if "No module named 'openllama_cli" in text or ("openllama_cli" in text and "failed to import" in text):
        raise OlcError(
            "a worker's machine has no openllama_cli, or another version of it",
            f"install the same on every machine: pip install openllama-cli=={__version__}",
            code="worker_version",
        )
