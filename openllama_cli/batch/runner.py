"""Rows in, results out: what runs beside what, how many at a time, what happens when memory runs out, and when to stop.

    read rows → tokens, or an error → a window, sorted by length → the decode loop → results

Nothing of this shows in the results: a row's text depends on its prompt, its options and its seed alone.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

from openllama_cli.batch.input.rows import Row, RowError
from openllama_cli.batch.neutral import Neutrals
from openllama_cli.batch.output.results import Progress, Result, chosen, failure, scored, success
from openllama_cli.batch.prepare import Prepare
from openllama_cli.generation.batch_size import auto_batch_size
from openllama_cli.generation.choices.scores import score_choices
from openllama_cli.generation.decode.request import Request, draws_of
from openllama_cli.generation.session import engines
from openllama_cli.generation.text.completion import Completion
from openllama_cli.generation.text.scoring import Score
from openllama_cli.generation.text.stream import Engine, TextStep, stream
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.system.memory import is_out_of_memory

if TYPE_CHECKING:
    from openllama_cli.models.loading.load import LoadedModel

# Rows read ahead, to be sorted by length: enough that the longest ones of a window start it and short ones fill its end.
WINDOW = 256


@dataclass
class _Running:
    """A row that has begun: its completions, and how many of them have not ended. failed: one of them has, and with it the
    row."""

    row: Row
    completions: list[Completion]
    left: int
    failed: bool = False


@dataclass
class _InFlight:
    """rows: that have begun and not ended, by their indices. samples: what is in the decode loop, by its number there."""

    rows: dict[int, _Running] = field(default_factory=dict)
    samples: dict[int, tuple[_Running, int]] = field(default_factory=dict)


@dataclass
class Runner:
    """Completes rows.

    engine: makes a decode loop for a batch size. context: the model's, in tokens. vocabulary: how many token ids its
    embedding has. model: its name. keep: called with every result. batch_size: rows at a time; halved when memory runs out.
    stopping: asked before a row begins; true lets the rows in flight finish and begins no more. notice: called with what
    people should know. seen: called with every step of the decode loop.
    """

    engine: Callable[[int], Engine]
    tokenizer: Tokenizer
    context: int
    vocabulary: int
    model: str
    keep: Callable[[Result], object]
    batch_size: int
    stopping: Callable[[], bool] = lambda: False
    notice: Callable[[str], None] = lambda text: None
    seen: Callable[[TextStep], None] = lambda step: None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self._neutrals = Neutrals(self.tokenizer, self.context)
        self._prepared = Prepare(self.tokenizer, self.context, self.vocabulary)

    def run(self, rows: Iterable[Row]) -> Iterator[Progress]:
        """Work through all rows; yields the counts after every token. Closing the iterator leaves unfinished rows undone."""
        waiting = self._windows(rows)
        retries: list[Row] = []
        allowed = self.batch_size
        while True:
            in_flight = _InFlight()
            try:
                yield from self._run(self._begin(retries, waiting, in_flight), in_flight, allowed)
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the except block, where the traceback would keep the tensors alive.
            unfinished = [running.row for running in in_flight.rows.values()]
            if len(unfinished) == 1 and allowed == 1:
                self._finish(failure(unfinished[0], "out_of_memory", "the row does not fit in memory even at batch size 1"))
                yield self.progress
                allowed = max(1, self.batch_size // 2)
            else:
                allowed = max(1, allowed // 2)
                retries = unfinished + retries
                self.notice(f"out of memory: continuing with a batch size of {allowed}")

    def _begin(self, retries: list[Row], waiting: Iterator[Row], in_flight: _InFlight) -> Iterator[Request]:
        """Rows as the loop has places for them; those that ran out of memory first."""
        while not self.stopping():
            row = retries.pop(0) if retries else next(waiting, None)
            if row is None:
                return
            assert row.tokens is not None
            made = [Completion(row.tokens) for _ in range(row.best_of)]
            running = in_flight.rows[row.index] = _Running(row, made, row.best_of)
            yield from self._neutrals.before(row.choices)
            for sample in range(row.best_of):
                if running.failed:
                    break
                number = draws_of(row.index, sample)
                in_flight.samples[number] = (running, sample)
                yield _prompt(running, number, sample)

    def _run(self, prompts: Iterator[Request], in_flight: _InFlight, allowed: int) -> Iterator[Progress]:
        with closing(stream(self.engine(allowed), self.tokenizer, prompts)) as steps:
            for step in steps:
                self.seen(step)
                self._handle(step, in_flight)
                yield self.progress

    def _handle(self, step: TextStep, in_flight: _InFlight) -> None:
        if self._neutrals.add(step):
            return
        running, sample = in_flight.samples[step.row]
        if step.error is not None or step.finish_reason is not None:
            del in_flight.samples[step.row]
        if running.failed:
            return
        if step.error is not None:
            running.failed = True
            del in_flight.rows[running.row.index]
            self._finish(failure(running.row, step.error.code, step.error.cause))
            return
        running.completions[sample].add(step)
        self.progress.tokens += (step.scored is not None) + sum(map(len, step.branches))
        self.progress.tokens += len(step.prompt) if running.row.scoring is not None else 0
        running.left -= step.finish_reason is not None
        if not running.left:
            del in_flight.rows[running.row.index]
            self._finish(self._result(running.row, running.completions))

    def _result(self, row: Row, completions: list[Completion]) -> Result:
        first = completions[0]
        if row.prepared is not None:
            score = Score.of(self.tokenizer, row.prompt or "", row.prepared, first.prompt_scored)
            return scored(row, score, len(first.prompt))
        if row.choices is None:
            return success(row, completions, self.tokenizer, self.model)
        try:
            neutral = self._neutrals.of(row.choices)
        except RowError as error:
            return failure(row, error.code, error.message)
        return chosen(row, score_choices(row.choices, first.branches, neutral), self.model)

    def _windows(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows that can run, window by window, longest first; the others are answered with their errors at once."""
        source = iter(rows)
        while window := list(islice(source, WINDOW)):
            ready = []
            for row in window:
                try:
                    ready.append(self._prepared(row))
                except RowError as error:
                    self._finish(failure(row, error.code, error.message))
            yield from sorted(ready, key=lambda row: -len(row.tokens or ()))

    def _finish(self, result: Result) -> None:
        self.keep(result)
        self.progress.count(result)


def _prompt(running: _Running, number: int, sample: int) -> Request:
    """A sample of a row as the decode loop takes it.

    One with a seed of its own draws the same wherever it stands in the file.
    """
    row = running.row
    assert row.sampling is not None
    assert row.tokens is not None
    if row.prepared is not None:
        first, stride, lead = row.prepared.first, row.prepared.stride, row.prepared.lead
        return Request(number, row.tokens, row.sampling, True, unscored=first, stride=stride, lead=lead)
    sampling, score = row.sampling, row.echo and row.sampling.logprobs is not None
    if row.best_of > row.samples and sampling.logprobs is None:
        sampling = replace(sampling, logprobs=0)  # They are compared by them.
    draws_as = draws_of(None if row.own_seed else row.index, sample)
    return Request(
        number,
        row.tokens,
        sampling,
        score,
        draws_as=draws_as,
        branches=row.branches,
        canceled=lambda: running.failed,
    )


def open_runner(
    loaded: "LoadedModel",
    *,
    model: str,
    keep: Callable[[Result], object],
    batch_size: int | None,
    positions: int,
    share: int = 1,
    stopping: Callable[[], bool] = lambda: False,
    notice: Callable[[str], None] = lambda text: None,
) -> Runner:
    """The runner of a loaded model.

    model: its name in results. batch_size: None for as many rows as fit into the free memory. positions: of the longest row.
    share: processes that share the computer's memory. The rest: see `Runner`.
    """
    from openllama_cli.system.device import free_bytes

    shape = loaded.checkpoint.shape
    if batch_size is None:
        on_cpu = loaded.input_device.type == "cpu"
        batch_size = auto_batch_size(
            free_bytes(loaded.input_device) // (share if on_cpu else 1),
            shape.cache_bytes(loaded.dtype.itemsize),
            min(shape.context, positions),
            on_cpu=on_cpu,
        )
    return Runner(
        engine=engines(loaded, notice),
        tokenizer=loaded.tokenizer,
        context=shape.context,
        vocabulary=shape.vocab,
        model=model,
        keep=keep,
        batch_size=batch_size,
        stopping=stopping,
        notice=notice,
    )
