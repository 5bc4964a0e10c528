"""What completes the rows of a batch: the model loaded here, workers on a Ray cluster, or a completions server.

An engine is opened before the journal, which it tells what results depend on; its runner is made once there are rows to do.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from openllama_cli.batch.input.readers import FormatName
from openllama_cli.batch.input.rows import Row, RowSettings
from openllama_cli.batch.journal.header import batch_header, server_header
from openllama_cli.batch.output.results import Progress, Result
from openllama_cli.batch.ray.options import RayOptions
from openllama_cli.commands.shared.choice_options import not_for_choices
from openllama_cli.commands.shared.few_shot import fitting
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.generation.decode.windows import windows
from openllama_cli.generation.text.token_ids import resolve
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.openai_api.address import ServerAddress
from openllama_cli.terminal.streams import note

if TYPE_CHECKING:
    from openllama_cli.batch.input.precheck import InputSummary
    from openllama_cli.batch.remote.server import Server
    from openllama_cli.few_shot import Fitting

# Enough to keep a server busy that batches, and no more than one that does not would have to hold in its queue.
SERVER_ROWS = 32


class RowRunner(Protocol):
    """Completes rows: `batch.runner.Runner` and its like."""

    progress: Progress

    def run(self, rows: Iterable[Row]) -> Iterator[Progress]:
        """Work through all rows; yields the counts as they change."""


@dataclass(frozen=True)
class Work:
    """What a runner is to do. rows: how many are left. positions: tokens of the longest one, at the most. batch_size: None for
    what the engine thinks best. keep, stopping: see `Runner`. begin: called with the surroundings in which rows run, see
    `records.batch.record.run_of`, before there is a result, and whenever they change.
    """

    rows: int
    positions: int
    batch_size: int | None
    keep: Callable[[Result], object]
    stopping: Callable[[], bool]
    begin: Callable[[dict[str, Any]], object]


class Engine(Protocol):
    """Where rows are completed."""

    def header(self, settings: RowSettings, fmt: FormatName, summary: "InputSummary") -> dict[str, Any]:
        """All that results depend on, for the journal."""

    @contextmanager
    def runner(self, work: Work) -> Iterator[RowRunner]:
        """A runner while the context lasts."""

    @property
    def told(self) -> dict[str, Any]:
        """What the record says of the model."""

    @property
    def caution(self) -> str | None:
        """What the results do not promise, in a sentence; None where they promise all that olc does."""

    def fitting(self) -> "Fitting | None":
        """What leaves out examples that the model has no room for; None where its tokens cannot be counted."""


@dataclass(frozen=True)
class LocalEngine:
    """The model, loaded in this process or by Ray's workers."""

    opened: OpenedModel
    spec: ModelSpec
    ray: RayOptions | None

    @property
    def caution(self) -> None:
        return None

    @property
    def told(self) -> dict[str, Any]:
        from openllama_cli.records.record import adapters, model

        return {"model": model(self.opened), "adapters": adapters(self.opened)}

    def fitting(self) -> "Fitting":
        return fitting(self.opened)

    def header(self, settings: RowSettings, fmt: FormatName, summary: "InputSummary") -> dict[str, Any]:
        return batch_header(self.opened, self.spec, settings, fmt, summary)

    @contextmanager
    def runner(self, work: Work) -> Iterator[RowRunner]:
        if self.ray is not None:
            from openllama_cli.batch.ray.cluster import open_ray_runner
            from openllama_cli.batch.ray.worker import worker_setup
            from openllama_cli.models.fingerprint import opened_fingerprint
            from openllama_cli.records.batch.record import place_of, run_of

            fingerprint = opened_fingerprint(self.opened)
            with open_ray_runner(
                self.ray,
                worker_setup(self.opened, self.spec, fingerprint, work.batch_size, work.positions, place_of),
                parameters=self.opened.checkpoint.shape.parameters(),
                rows=work.rows,
                keep=work.keep,
                stopping=work.stopping,
                notice=note,
                begin=lambda places: work.begin(run_of("ray", places)),
            ) as runner:
                yield runner
            return
        # First: it settles how threads wait, which torch reads once, when it is imported.
        loaded = load_model(self.opened, self.spec)

        from openllama_cli.batch.runner import open_runner
        from openllama_cli.records.batch.record import place_of, run_of

        runner = open_runner(
            loaded,
            model=self.opened.folder.name,
            keep=work.keep,
            batch_size=work.batch_size,
            positions=work.positions,
            stopping=work.stopping,
            notice=note,
        )
        work.begin(run_of("local", [place_of(loaded)], runner.batch_size))
        yield runner


@dataclass(frozen=True)
class ServerEngine:
    """A completions server. given: sampling options that were named."""

    server: "Server"
    given: tuple[str, ...]

    @property
    def told(self) -> dict[str, Any]:
        return {"model": {"name": self.server.model, **self.server.about}, "adapters": []}

    def header(self, settings: RowSettings, fmt: FormatName, summary: "InputSummary") -> dict[str, Any]:
        model = {"name": self.server.model, **self.server.about}
        return server_header(self.server.url, model, settings, fmt, summary)

    @contextmanager
    def runner(self, work: Work) -> Iterator[RowRunner]:
        from openllama_cli.batch.remote.engine import RemoteRunner
        from openllama_cli.records.batch.record import run_of, server_place

        work.begin(run_of("server", [server_place(self.server.about.get("olc"), self.server.machine)]))
        yield RemoteRunner(
            self.server,
            work.keep,
            work.batch_size or SERVER_ROWS,
            given=self.given,
            stopping=work.stopping,
            notice=note,
        )

    def fitting(self) -> None:
        return None

    @property
    def caution(self) -> str | None:
        if self.server.is_olc:
            return None
        return f"{self.server.url} does not promise the same bytes another time, nor that a seed repeats a text"


def open_engine(spec: ModelSpec, ray: RayOptions | None, server: ServerAddress | None, settings: RowSettings) -> Engine:
    """Find the model, or the server and its model. Raises OlcError, also for options that the model has no token for."""
    if server is None:
        opened = open_model(spec)
        resolve(settings.sampling, opened.tokenizer, opened.checkpoint.shape.vocab)
        if settings.scoring is not None and settings.scoring.stride is not None:
            lead = int(opened.tokenizer.bos_id is not None)
            windows(1, opened.checkpoint.shape.context, settings.scoring.stride, lead)  # Is it in range?
        return LocalEngine(opened, spec, ray)
    from openllama_cli.batch.remote.server import connect

    found = connect(server, spec.model, notice=note)
    if settings.choosing.choices is not None and not found.is_olc:
        raise not_for_choices(found.url)
    return ServerEngine(found, tuple(settings.defaults))


def fitted_settings(settings: RowSettings, engine: Engine) -> RowSettings:
    """Settings under which rows have no more examples than the engine's model has room for."""
    return settings if settings.few_shot is None else replace(settings, fit=engine.fitting())
