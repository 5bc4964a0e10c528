"""Rows in, journalled results out: what runs beside what, what happens when memory runs out, and when to stop.

    read rows → tokens, or an error → a window, sorted by length → the decode loop → the journal

Nothing of this shows in the results: a row's text depends on its prompt, its options and its seed alone.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.output.lines import Results, error_line, success_line
from openllama_cli.errors import OlcError
from openllama_cli.generation.text.completion import Completion
from openllama_cli.generation.text.stream import Engine, Prompt, TextStep, stream
from openllama_cli.models.tokenizer.base import Tokenizer

# Rows read ahead, to be sorted by length: enough that the longest ones of a window start it and short ones fill its end.
WINDOW = 256


@dataclass
class Progress:
    """Counts of one run: rows that it finished, with errors or without, and tokens that it made."""

    rows: int = 0
    failed: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Work:
    """A row that can run: its prompt as token ids."""

    row: Row
    tokens: tuple[int, ...]

    @property
    def prompt(self) -> Prompt:
        """As the decode loop takes it. A row with a seed of its own draws the same wherever it stands in the file."""
        assert self.row.sampling is not None
        score = self.row.echo and self.row.sampling.logprobs is not None
        return Prompt(self.row.index, self.tokens, self.row.sampling, score, draws_as=0 if self.row.own_seed else None)


@dataclass
class Runner:
    """Completes rows and keeps their results.

    engine: makes a decode loop for so many rows at a time. context: the model's, in tokens. vocabulary: how many token ids its
    embedding has. model: its name.
    max_rows: rows at a time; halved when memory runs out. stopping: asked before a row begins; true lets the rows in flight
    finish and begins no more. notice: told what people should know.
    """

    engine: Callable[[int], Engine]
    tokenizer: Tokenizer
    context: int
    vocabulary: int
    model: str
    results: Results
    max_rows: int
    stopping: Callable[[], bool] = lambda: False
    notice: Callable[[str], None] = lambda text: None
    progress: Progress = field(default_factory=Progress)

    def run(self, rows: Iterable[Row]) -> Iterator[Progress]:
        """Work through all rows; yields the counts after every token. Closing the iterator leaves unfinished rows undone."""
        waiting = self._windows(rows)
        again: list[Work] = []
        allowed = self.max_rows
        while True:
            in_flight: dict[int, tuple[Work, Completion]] = {}
            try:
                yield from self._run(self._begin(again, waiting, in_flight), in_flight, allowed)
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the except block, where the traceback would keep the tensors alive.
            unfinished = [work for work, _ in in_flight.values()]
            if len(unfinished) == 1 and allowed == 1:
                self._fail(unfinished[0].row, "out_of_memory", "the row does not fit into memory, even alone")
                yield self.progress
                allowed = max(1, self.max_rows // 2)
            else:
                allowed = max(1, allowed // 2)
                again = unfinished + again
                self.notice(f"out of memory: going on with {allowed} rows at a time")

    def _begin(
        self, again: list[Work], waiting: Iterator[Work], in_flight: dict[int, tuple[Work, Completion]]
    ) -> Iterator[Prompt]:
        """Rows as the loop has places for them; rows that ran out of memory first."""
        while not self.stopping():
            work = again.pop(0) if again else next(waiting, None)
            if work is None:
                return
            in_flight[work.row.index] = (work, Completion(work.tokens))
            yield work.prompt

    def _run(
        self, prompts: Iterator[Prompt], in_flight: dict[int, tuple[Work, Completion]], allowed: int
    ) -> Iterator[Progress]:
        with closing(stream(self.engine(allowed), self.tokenizer, prompts)) as steps:
            for step in steps:
                self._take(step, in_flight)
                yield self.progress

    def _take(self, step: TextStep, in_flight: dict[int, tuple[Work, Completion]]) -> None:
        work, completion = in_flight[step.row]
        if step.error is not None:
            del in_flight[step.row]
            self._fail(work.row, step.error.code, step.error.cause)
            return
        completion.add(step)
        self.progress.tokens += step.scored is not None
        if step.finish_reason is not None:
            del in_flight[step.row]
            self.results.append(step.row, None, success_line(work.row, completion, self.tokenizer, self.model))
            self.progress.rows += 1

    def _windows(self, rows: Iterable[Row]) -> Iterator[Work]:
        """Rows that can run, window by window, longest first; the others are answered with their errors at once."""
        source = iter(rows)
        while window := list(islice(source, WINDOW)):
            ready = [work for row in window if (work := self._prepare(row)) is not None]
            yield from sorted(ready, key=lambda work: -len(work.tokens))

    def _prepare(self, row: Row) -> Work | None:
        """A row's tokens; None, and an error line, where it cannot run."""
        if row.error is not None:
            self._fail(row, row.error.code, row.error.message)
            return None
        assert row.sampling is not None
        try:
            tokens = tuple(row.tokens if row.tokens is not None else self.tokenizer.encode(row.prompt or ""))
        except OlcError as error:
            self._fail(row, error.code, error.cause)
            return None
        if row.tokens is not None and (highest := max(row.tokens)) >= self.vocabulary:
            message = f"token id {highest} is outside the model's 0 to {self.vocabulary - 1}"
            self._fail(row, "token_id_out_of_range", message)
            return None
        length, most = len(tokens), row.sampling.max_tokens
        if length + most > self.context:
            message = f"the prompt has {length} tokens; with {most} to come that is {length + most}, the context {self.context}"
            self._fail(row, "context_length_exceeded", message)
            return None
        return Work(row, tokens)

    def _fail(self, row: Row, code: str, message: str) -> None:
        self.results.append(row.index, code, error_line(row, code, message))
        self.progress.rows += 1
        self.progress.failed += 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, a GPU's, or the CPU allocator's."""
    if isinstance(error, MemoryError):
        return True
    kinds = {kind.__name__ for kind in type(error).__mro__}
    # torch's CPU allocator raises a plain RuntimeError.
    return "OutOfMemoryError" in kinds or ("RuntimeError" in kinds and "DefaultCPUAllocator" in str(error))
