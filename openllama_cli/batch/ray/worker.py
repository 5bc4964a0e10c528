"""A worker of the Ray engine: a model, the local engine's Runner in a thread, and one method that trades rows for results.

The decode loop runs on while the driver is told of results, and new rows take the places of finished ones: nothing is done in
rounds. Errors that are expected come back as values: Ray would wrap exceptions, and OlcError's two lines would be lost.
"""

import os
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from openllama_cli import __version__
from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.sizing import auto_rows, cache_bytes_per_position
from openllama_cli.errors import ModelError, OlcError
from openllama_cli.models.spec import ModelSpec

if TYPE_CHECKING:
    from openllama_cli.batch.runner import Runner
    from openllama_cli.models.loading.load import LoadedModel


# An answer comes at least this often: it is how a worker shows that it lives, and how soon a stop is heard.
ANSWER_SECONDS = 0.5
# Results wait this long for company, unless the worker may run out of rows: each answer costs the driver about a millisecond.
GATHER_SECONDS = 0.05


@dataclass(frozen=True)
class Setup:
    """What a worker has to open, and what it must turn out to be.

    spec: a folder, alias or Hub id with its commit, found without network. model: its name in results. fingerprint,
    tokenizer_sha256: of the driver's copy. batch_size: rows side by side, None for as many as fit. positions: of the longest
    row. share: workers that share a machine's memory.
    """

    spec: ModelSpec
    model: str
    fingerprint: Mapping[str, Any]
    tokenizer_sha256: str
    batch_size: int | None
    positions: int
    share: int = 1


@dataclass(frozen=True)
class Greeting:
    """Who a worker is. node: Ray's id of its machine. torch: the version, None if it is not installed."""

    version: str
    torch: str | None
    host: str
    node: str
    pid: int


@dataclass(frozen=True)
class Ready:
    """A loaded model. rows: how many run side by side. dtype: "float32", …"""

    rows: int
    dtype: str


@dataclass(frozen=True)
class Refusal:
    """Why a worker cannot work: an OlcError's two lines."""

    cause: str
    remedy: str
    code: str


@dataclass(frozen=True)
class Answer:
    """What happened since the last answer.

    results: (index, code, line) as a journal takes them. tokens: made since. beats: grows while the worker gets on. idle:
    nothing is running. broken: the exception that ended its decode loop, in a line; nothing more will come.
    """

    results: list[tuple[int, str | None, bytes]]
    tokens: int
    beats: int
    idle: bool
    broken: str | None = None


class Desk:
    """Where the thread that decodes and the calls of the driver meet. Iterating it takes the rows that wait.

    An iteration that has ended goes on when there are new rows: the Runner reads window by window, and takes what is there.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._changed = threading.Condition()
        self._rows: deque[Row] = deque()
        self._results: list[tuple[int, str | None, bytes]] = []
        self._held = 0
        self._running = False
        self._beats = self._tokens = self._tokens_told = 0
        self._broken: str | None = None

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        with self._changed:
            if not self._rows:
                raise StopIteration
            return self._rows.popleft()

    def append(self, index: int, code: str | None, line: bytes) -> None:
        """Keep a finished row for the driver (what `runner.Results` asks for)."""
        with self._changed:
            self._results.append((index, code, line))
            self._held -= 1
            self._changed.notify_all()

    def work(self, runner: "Runner") -> None:
        """Complete rows for ever, as they come; what the thread does."""
        try:
            while True:
                with self._changed:
                    self._running = False
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._rows)
                    self._running = True
                for progress in runner.run(self):
                    self._beats += 1
                    self._tokens = progress.tokens
        except BaseException as error:
            traceback.print_exc()
            with self._changed:
                words = " ".join(str(error).split())[:200]
                self._broken = f"{type(error).__name__}: {words}" if words else type(error).__name__
                self._changed.notify_all()

    def exchange(self, rows: Sequence[Row], *, last: bool, enough: int) -> Answer:
        """Take rows, wait for results. last: begin none of those that wait. enough: rows that keep the loop full."""
        with self._changed:
            if last:
                self.stopping = True
                self._rows.clear()
            else:
                self._rows.extend(rows)
                self._held += len(rows)
            self._changed.notify_all()
            idle = lambda: not self._running and not self._rows  # noqa: E731
            self._changed.wait_for(lambda: self._results or self._broken or idle(), ANSWER_SECONDS)
            self._changed.wait_for(lambda: self._held <= enough or self._broken or idle(), GATHER_SECONDS)
            results, self._results = self._results, []
            tokens, self._tokens_told = self._tokens - self._tokens_told, self._tokens
            return Answer(results, tokens, self._beats + len(results), idle(), self._broken)


@dataclass
class RayWorker:
    """The actor. The driver calls `hello`, `load`, then `exchange` again and again."""

    _desk: Desk = field(default_factory=Desk)
    _rows: int = 1

    def hello(self) -> Greeting:
        """Who this is: the first answer, which shows that Ray found a place."""
        import ray

        try:
            torch = metadata.version("torch")
        except metadata.PackageNotFoundError:
            torch = None
        return Greeting(__version__, torch, socket.gethostname(), ray.get_runtime_context().get_node_id(), os.getpid())

    def load(self, setup: Setup) -> Ready | Refusal:
        """Open and load the model, check that it is the driver's, and begin to wait for rows."""
        try:
            runner, ready = self._open(setup)
        except OlcError as error:
            return Refusal(error.cause, error.remedy, error.code)
        self._rows = ready.rows
        threading.Thread(target=self._desk.work, args=(runner,), daemon=True, name="olc-decode").start()
        return ready

    def exchange(self, rows: list[Row], last: bool = False) -> Answer:
        """Rows in, results out; see `Desk.exchange`."""
        return self._desk.exchange(rows, last=last, enough=self._rows)

    def _open(self, setup: Setup) -> tuple["Runner", Ready]:
        # First: it settles how threads wait, which torch reads once, when it is imported.
        loaded = open_and_load(setup)

        from openllama_cli.batch.runner import Runner
        from openllama_cli.generation.session import engines

        shape = loaded.checkpoint.shape
        rows = setup.batch_size or _auto_rows(loaded, setup)
        runner = Runner(
            engine=engines(loaded),
            tokenizer=loaded.tokenizer,
            context=shape.context,
            vocabulary=shape.vocab,
            model=setup.model,
            results=self._desk,
            max_rows=rows,
            stopping=self._stopping(),
        )
        return runner, Ready(rows, str(loaded.dtype).removeprefix("torch."))

    def _stopping(self) -> Callable[[], bool]:
        return lambda: self._desk.stopping


def open_and_load(setup: Setup) -> "LoadedModel":
    """The model of a setup from this machine's disk. Raises OlcError where it is missing, another one, or does not load."""
    from openllama_cli.batch.journal.header import differences, model_fingerprint
    from openllama_cli.models.checkpoint.inspect import inspect
    from openllama_cli.models.find import find
    from openllama_cli.models.loading.load import load
    from openllama_cli.models.tokenizer.open import open_tokenizer

    folder = find(setup.spec)
    checkpoint, tokenizer = inspect(folder.path), open_tokenizer(folder.path)
    there = [path for name in setup.fingerprint["files"] if (path := checkpoint.path / name).is_file()]
    here = {**model_fingerprint(there), "revision": setup.fingerprint["revision"]}
    changed = differences({"model": setup.fingerprint}, {"model": here})
    if not changed and tokenizer.sha256 != setup.tokenizer_sha256:
        changed = ["the tokenizer changed"]
    if changed:
        raise ModelError(
            f"{folder.path} is not the model that the driver has: {changed[0]}",
            "copy the driver's folder to the same path on every machine",
            code="model_mismatch",
        )
    return load(folder, setup.spec, checkpoint=checkpoint, tokenizer=tokenizer)


def _auto_rows(loaded: "LoadedModel", setup: Setup) -> int:
    from openllama_cli.system.device import free_bytes

    shape = loaded.checkpoint.shape
    on_cpu = loaded.input_device.type == "cpu"
    per_position = cache_bytes_per_position(shape.layers, shape.kv_heads, shape.head_dim, loaded.dtype.itemsize)
    free = free_bytes(loaded.input_device) // (setup.share if on_cpu else 1)
    return auto_rows(free, per_position, min(shape.context, setup.positions), on_cpu=on_cpu)
