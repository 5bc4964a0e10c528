"""How long a batch may take and what it holds in memory, from a handful of its rows: what `olc batch --dry-run` finds out.

rows → Survey (all of them) → a handful runs → Pace → Forecast
"""

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.survey import Survey, most_new_tokens
from openllama_cli.generation.decode.request import draws_of

if TYPE_CHECKING:
    from openllama_cli.batch.output.results import Result
    from openllama_cli.batch.runner import Runner
    from openllama_cli.generation.text.stream import TextStep

# Of the rows that are measured: prompt tokens together (a CPU prefills some 50 of a 3B model in a second), and seconds in which
# they may run; but without this many steps of decode nothing is known about it.
_MOST_TOKENS = 1024
# With fewer of them overheads are all that is measured: then a long row is taken too.
_FEWEST_TOKENS = 128
_MOST_SECONDS = 30.0
_FEWEST_STEPS = 3


@dataclass
class Pace:
    """What a handful of rows took.

    rows: that were begun. prompt_tokens: of those that were prefilled. prefill_seconds: until the last of them was.
    new_tokens, decode_seconds: after that. expected, most: tokens that these rows make, where those that had not ended make
    all that they may; and that they might have made. unfinished: rows that had not ended.
    """

    rows: int = 0
    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    new_tokens: int = 0
    decode_seconds: float = 0.0
    expected: int = 0
    most: int = 0
    unfinished: int = 0

    @property
    def prefill_tokens_per_s(self) -> float:
        """All rows together."""
        return self.prompt_tokens / max(self.prefill_seconds, 1e-9)

    @property
    def decode_tokens_per_s(self) -> float | None:
        """All rows together; None where nothing was decoded."""
        return self.new_tokens / max(self.decode_seconds, 1e-9) if self.new_tokens else None


def handful(survey: Survey, batch_size: int) -> list[Row]:
    """The rows to measure: drawn ones, as many as run at a time, but no more tokens than a moment takes."""
    chosen: list[Row] = []
    tokens = samples = 0
    for row in survey.drawn:
        before, tokens, samples = tokens, tokens + len(row.tokens or ()), samples + row.best_of
        if chosen and (samples > batch_size or (tokens > _MOST_TOKENS and before >= _FEWEST_TOKENS)):
            break
        chosen.append(row)
    return chosen


class _Watch:
    """Notes when rows were prefilled, and what came after. decoded: tokens since the last of them was."""

    def __init__(self) -> None:
        self.began = self.prefilled = self.latest = time.perf_counter()
        self.made: Counter[int] = Counter()
        self.begun: set[int] = set()
        self.before = 0

    @property
    def decoded(self) -> int:
        return self.made.total() - self.before

    def see(self, step: "TextStep") -> None:
        self.latest = time.perf_counter()
        self.made[step.row] += step.scored is not None
        if step.prefilled:
            self.prefilled, self.before = self.latest, self.made.total()
            self.begun.add(step.row)


def measure(runner: "Runner", survey: Survey) -> Pace:
    """Runs a handful of the rows, for about half a minute at most. One that fails counts as wrong in the survey."""
    watch, ended = _Watch(), dict[int, "Result"]()
    runner = replace(runner, seen=watch.see, keep=lambda result: ended.__setitem__(result.index, result))
    rows = handful(survey, runner.batch_size)
    watch.began = watch.prefilled = watch.latest = time.perf_counter()
    for _ in runner.run(rows):
        if time.perf_counter() - watch.began > _MOST_SECONDS and watch.decoded >= _FEWEST_STEPS * len(rows):
            break
    pace = Pace(rows=len(rows), prefill_seconds=watch.prefilled - watch.began)
    pace.new_tokens, pace.decode_seconds = watch.decoded, watch.latest - watch.prefilled
    for row in rows:
        numbers, most = [draws_of(row.index, sample) for sample in range(row.best_of)], most_new_tokens(row, survey.context)
        result, most = ended.get(row.index), most * row.best_of
        pace.prompt_tokens += len(row.tokens or ()) if watch.begun.intersection(numbers) else 0
        pace.most += most
        pace.expected += most if result is None else sum(watch.made[number] for number in numbers)
        pace.unfinished += result is None
        if result is not None and result.code is not None:
            survey.fails(row, result.code, result.document["error"]["message"])
    return pace


@dataclass(frozen=True)
class Memory:
    """weights: bytes of the model's; cache: of the KV cache at its fullest; free: beside the weights."""

    weights: int
    cache: int
    free: int


@dataclass(frozen=True)
class Forecast:
    """What a dry run finds. pace, memory, batch_size: None where no row can run; load_seconds: of the model."""

    survey: Survey
    batch_size: int | None = None
    memory: Memory | None = None
    pace: Pace | None = None
    load_seconds: float = 0.0

    @property
    def new_tokens(self) -> int:
        """That all rows are expected to make, if they are like those that were measured."""
        if self.pace is None or not self.pace.most:
            return 0
        return round(self.survey.new_tokens * self.pace.expected / self.pace.most)

    @property
    def prefill_seconds(self) -> float:
        """Of all prompts."""
        rate = None if self.pace is None else self.pace.prefill_tokens_per_s
        return sum(self.survey.tokens) / rate if rate else 0.0

    @property
    def decode_seconds(self) -> float:
        """Of all tokens that are expected."""
        rate = None if self.pace is None else self.pace.decode_tokens_per_s
        return self.new_tokens / rate if rate else 0.0

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.load_seconds + self.prefill_seconds + self.decode_seconds

    def document(self) -> dict[str, Any]:
        """For JSON. Seconds; bytes; tokens per second of all rows together."""
        document = {**self.survey.document(), "batch_size": self.batch_size, "memory": None, "measured": None, "estimate": None}
        if self.memory is not None:
            memory = self.memory
            document["memory"] = {
                "weights_bytes": memory.weights,
                "cache_bytes": memory.cache,
                "free_bytes": memory.free,
            }
        if self.pace is not None:
            rate = self.pace.decode_tokens_per_s
            document["measured"] = {
                "rows": self.pace.rows,
                "unfinished": self.pace.unfinished,
                "seconds": round(self.pace.prefill_seconds + self.pace.decode_seconds, 3),
                "prefill_tokens_per_s": round(self.pace.prefill_tokens_per_s, 2),
                "decode_tokens_per_s": None if rate is None else round(rate, 2),
            }
            document["estimate"] = {
                "seconds": round(self.seconds, 1),
                "load_seconds": round(self.load_seconds, 1),
                "prefill_seconds": round(self.prefill_seconds, 1),
                "decode_seconds": round(self.decode_seconds, 1),
                "new_tokens": self.new_tokens,
            }
        return document
