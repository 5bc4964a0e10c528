"""A worker of the Ray engine: a model, the local engine's Runner in a thread, and one method that trades rows for results.

The decode loop keeps running while results go to the driver, and new rows replace finished ones: nothing waits for a round to
end. Errors that are expected come back as values: Ray would wrap exceptions, and OlcError's two lines would be lost.
"""

import os
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.output.results import Result
from openllama_cli.errors import ModelError, OlcError
from openllama_cli.models.spec import ModelSpec
from openllama_cli.version import __version__

if TYPE_CHECKING:
    from openllama_cli.batch.runner import Runner
    from openllama_cli.models.loading.load import LoadedModel
    from openllama_cli.models.opened import OpenedModel


# A reply comes at least this often: it is how a worker shows that it lives, and how soon it hears of a stop.
REPLY_SECONDS = 0.5
# Results wait this long for company, unless the worker may run out of rows: each reply costs the driver about a millisecond.
GATHER_SECONDS = 0.05


Describe = Callable[["LoadedModel"], Mapping[str, Any]]


@dataclass(frozen=True)
class Setup:
    """What a worker has to open, and what it must turn out to be.

    spec: a folder, alias or Hub id with its commit, found without network. model: its name in results. fingerprint,
    tokenizer_sha256: of the driver's copy. batch_size: None for as many rows as fit. positions: of the longest row. share:
    workers that share a machine's memory. describe: says of a loaded model in which surroundings it runs.
    """

    spec: ModelSpec
    model: str
    fingerprint: Mapping[str, Any]
    tokenizer_sha256: str
    batch_size: int | None
    positions: int
    share: int = 1
    describe: Describe | None = None


def worker_setup(
    opened: "OpenedModel",
    spec: ModelSpec,
    fingerprint: Mapping[str, Any],
    batch_size: int | None,
    positions: int,
    describe: Describe | None = None,
) -> Setup:
    """How workers find the driver's model, by a name that means the same elsewhere: a full path, or a Hub id and its
    commit, from the cache. spec: as it was asked for here."""
    folder = opened.folder
    if folder.origin == "hub":
        spec = replace(spec, model=folder.hub_name, revision=folder.revision, offline=True)
    else:
        model = "demo" if folder.origin == "demo" else str(folder.path.absolute())
        spec = replace(spec, model=model, revision=None, offline=True)
    adapters = (replace(one, name=one.repo_id or str(one.path.absolute())).label for one in folder.adapters)
    spec = replace(spec, adapters=tuple(adapters))
    return Setup(spec, folder.name, fingerprint, opened.tokenizer.sha256, batch_size, positions, describe=describe)


@dataclass(frozen=True)
class WorkerInfo:
    """Who a worker is. node: Ray's id of its machine. torch: the version, None if it is not installed."""

    version: str
    torch: str | None
    host: str
    node: str
    pid: int


@dataclass(frozen=True)
class Ready:
    """A loaded model. dtype: "float32", … place: the surroundings in which it runs."""

    batch_size: int
    dtype: str
    place: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadFailure:
    """Why a worker cannot load its model: an OlcError's two lines."""

    cause: str
    remedy: str
    code: str


@dataclass(frozen=True)
class Reply:
    """What happened since the last reply.

    tokens: made since. heartbeats: grows while the worker gets on. idle: nothing is running. broken: the exception that ended
    its decode loop, in a line; nothing more will come.
    """

    results: list[Result]
    tokens: int
    heartbeats: int
    idle: bool
    broken: str | None = None


class WorkQueue:
    """Where the thread that decodes and the calls of the driver meet. Iterating it pops the rows that wait.

    An iteration that has ended continues when there are new rows: the Runner reads window by window, and gets what is there.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._changed = threading.Condition()
        self._rows: deque[Row] = deque()
        self._results: list[Result] = []
        self._held = 0
        self._running = False
        self._heartbeats = self._tokens = self._tokens_reported = 0
        self._broken: str | None = None

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        with self._changed:
            if not self._rows:
                raise StopIteration
            return self._rows.popleft()

    def append(self, result: Result) -> None:
        """Keep a finished row for the driver."""
        with self._changed:
            self._results.append(result)
            self._held -= 1
            self._changed.notify_all()

    def work(self, runner: "Runner") -> None:
        """Complete rows forever, as they come; what the thread runs."""
        try:
            while True:
                with self._changed:
                    self._running = False
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._rows)
                    self._running = True
                for progress in runner.run(self):
                    self._heartbeats += 1
                    self._tokens = progress.tokens
        except BaseException as error:
            traceback.print_exc()
            with self._changed:
                words = " ".join(str(error).split())[:200]
                self._broken = f"{type(error).__name__}: {words}" if words else type(error).__name__
                self._changed.notify_all()

    def exchange(self, rows: Sequence[Row], *, last: bool, enough: int) -> Reply:
        """Add rows, wait for results. last: begin none of those that wait. enough: rows that keep the loop full."""
        with self._changed:
            if last:
                self.stopping = True
                self._rows.clear()
            else:
                self._rows.extend(rows)
                self._held += len(rows)
            self._changed.notify_all()
            idle = lambda: not self._running and not self._rows  # noqa: E731
            self._changed.wait_for(lambda: self._results or self._broken or idle(), REPLY_SECONDS)
            self._changed.wait_for(lambda: self._held <= enough or self._broken or idle(), GATHER_SECONDS)
            results, self._results = self._results, []
            tokens, self._tokens_reported = self._tokens - self._tokens_reported, self._tokens
            return Reply(results, tokens, self._heartbeats + len(results), idle(), self._broken)


@dataclass
class RayWorker:
    """The actor. The driver calls `info`, `load`, then `exchange` again and again."""

    _queue: WorkQueue = field(default_factory=WorkQueue)
    _batch_size: int = 1

    def info(self) -> WorkerInfo:
        """Who this is: the first reply, which shows that Ray found a place."""
        import ray

        try:
            torch = metadata.version("torch")
        except metadata.PackageNotFoundError:
            torch = None
        return WorkerInfo(__version__, torch, socket.gethostname(), ray.get_runtime_context().get_node_id(), os.getpid())

    def load(self, setup: Setup) -> Ready | LoadFailure:
        """Open and load the model, check that it is the driver's, and begin to wait for rows."""
        try:
            # First: it settles how threads wait, which torch reads once, when it is imported.
            loaded = open_and_load(setup)

            from openllama_cli.batch.runner import open_runner

            runner = open_runner(
                loaded,
                model=setup.model,
                keep=self._queue.append,
                batch_size=setup.batch_size,
                positions=setup.positions,
                share=setup.share,
                stopping=lambda: self._queue.stopping,
            )
        except OlcError as error:
            return LoadFailure(error.cause, error.remedy, error.code)
        self._batch_size = runner.batch_size
        threading.Thread(target=self._queue.work, args=(runner,), daemon=True, name="olc-decode").start()
        place = {} if setup.describe is None else setup.describe(loaded)
        return Ready(runner.batch_size, str(loaded.dtype).removeprefix("torch."), place)

    def exchange(self, rows: list[Row], last: bool = False) -> Reply:
        """Rows in, results out; see `WorkQueue.exchange`."""
        return self._queue.exchange(rows, last=last, enough=self._batch_size)


def open_and_load(setup: Setup) -> "LoadedModel":
    """Load a setup's model from this machine's disk. Raises OlcError where it is missing, another one, or does not load."""
    from openllama_cli.batch.journal.header import differences
    from openllama_cli.models.find import find
    from openllama_cli.models.fingerprint import adapters_fingerprint, model_fingerprint
    from openllama_cli.models.loading.load import load
    from openllama_cli.models.opened import OpenedModel

    opened = OpenedModel.of(find(setup.spec))
    path = opened.folder.path
    folder = path if path.is_dir() else path.parent  # Of a GGUF file.
    present = [path for name in setup.fingerprint["files"] if (path := folder / name).is_file()]
    here = {**model_fingerprint(present), "revision": setup.fingerprint["revision"]}
    here |= adapters_fingerprint(opened)
    changed = differences({"model": setup.fingerprint}, {"model": here})
    if not changed and opened.tokenizer.sha256 != setup.tokenizer_sha256:
        changed = ["the tokenizer changed"]
    if changed:
        raise ModelError(
            f"{folder} differs from the driver's model: {changed[0]}",
            "copy the driver's folder to the same path on every machine",
            code="model_mismatch",
        )
    return load(opened, setup.spec)
