"""Rows of many requests on their way into one decode loop, and their steps on the way back.

The web side submits a `Job`; the engine thread takes rows from the jobs in turn, one between two steps of the loop, so that a
request of one row does not wait behind all rows of a large one. Steps are handed over in the engine thread and never wait for
whoever reads them.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from openllama_cli.serve.errors import ApiError

if TYPE_CHECKING:
    from openllama_cli.generation.decode.request import Request
    from openllama_cli.generation.text.stream import TextStep

# Rows that wait. Far more than clients send at once: one who is refused sends all of it again.
MOST_WAITING = 4096


@dataclass(eq=False)
class Job:
    """The rows of one request.

    rows: their `row` is the place in the job. deliver: called in the engine thread with every step; must not block. begun:
    called right before its first row is prefilled. waiting: those that have not begun. canceled: nobody waits for its steps.
    """

    rows: "Sequence[Request]"
    deliver: "Callable[[TextStep], None]"
    begun: Callable[[], None] = lambda: None
    canceled: bool = False
    waiting: "deque[Request]" = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.waiting.extend(self.rows)

    def is_canceled(self) -> bool:
        """For the decode loop."""
        return self.canceled


class Scheduler:
    """The queue between the web side and the engine thread."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._closed = False
        self._numbers = 0
        # Rows in the loop: their number there, whose they are, and which.
        self._active: dict[int, tuple[Job, int]] = {}

    @property
    def waiting(self) -> int:
        """Rows that have not begun."""
        with self._changed:
            return sum(len(job.waiting) for job in self._jobs)

    @property
    def active(self) -> int:
        """Rows in the loop."""
        return len(self._active)

    def submit(self, job: Job) -> None:
        """Queue a job's rows. Raises ApiError if too many wait already, or none are taken any more."""
        with self._changed:
            if self._closed:
                raise ApiError(503, "the server is ending; send the request to another one", "shutting_down")
            waiting = sum(len(other.waiting) for other in self._jobs)
            if waiting + len(job.rows) > self._most_waiting:
                message = f"{waiting} completions are waiting, and {self._most_waiting} may; send the request again later"
                raise ApiError(503, message, "overloaded", retry_after=5)
            self._jobs.append(job)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Free a job's rows: those in the loop leave it before its next step."""
        with self._changed:
            job.canceled = True
            job.waiting.clear()
            if job in self._jobs:  # A full house would keep it until there is a place again.
                self._jobs.remove(job)

    def close(self, error: "Callable[[int], TextStep] | None" = None) -> None:
        """Cancel what is waiting and running; `requests` ends. error: the last step of what is given up."""
        with self._changed:
            self._closed = True
            # A copy, made at once: the engine thread takes rows out meanwhile.
            jobs = {id(job): job for job in (*self._jobs, *(job for job, _ in list(self._active.values())))}
            for job in jobs.values():
                if error is not None and not job.canceled:
                    job.deliver(error(0))
                job.canceled = True
                job.waiting.clear()
            self._changed.notify()

    def requests(self) -> "Iterator[Request | None]":
        """The rows for the decode loop, in the engine thread; None between them while rows are active. Ends once closed."""
        while True:
            with self._changed:
                row = self._next()
                while row is None and not self._active and not self._closed:
                    self._changed.wait()
                    row = self._next()
                if row is None and not self._active:
                    return
            if row is not None:
                yield row
            yield None

    def _next(self) -> "Request | None":
        """The next row: of the jobs in turn."""
        while self._jobs:
            job = self._jobs.popleft()
            if job.canceled or not job.waiting:
                continue
            row = job.waiting.popleft()
            if job.waiting:
                self._jobs.append(job)
            number, self._numbers = self._numbers, self._numbers + 1
            self._active[number] = (job, row.row)
            if len(job.waiting) == len(job.rows) - 1:
                job.begun()
            draws_as = row.row if row.draws_as is None else row.draws_as
            return replace(row, row=number, draws_as=draws_as, canceled=job.is_canceled)
        return None

    def deliver(self, step: "TextStep") -> None:
        """Hand a step of the loop to its job."""
        job, row = self._active[step.row]
        if step.finish_reason is not None or step.error is not None:
            del self._active[step.row]
        if not job.canceled:
            job.deliver(replace(step, row=row))

    def fail(self, error: "Callable[[int], TextStep]") -> None:
        """The loop broke: end the rows that were in it. error: a row's last step."""
        for number, (job, row) in list(self._active.items()):
            del self._active[number]
            if not job.canceled:
                job.deliver(error(row))


class Steps:
    """The steps of a job as an asynchronous stream: the engine thread puts them in, one request's task takes them out.

    Create it in the event loop of the request. The engine never waits: what nobody takes is kept, at most a row's tokens.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._steps: deque[TextStep] = deque()
        self._told = False

    def put(self, step: "TextStep") -> None:
        """Add a step, from any thread."""
        self._steps.append(step)
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody reads any more.
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def batches(self, seconds: float) -> "AsyncIterator[list[TextStep]]":
        """All steps that have arrived since the last time; none if none did for some seconds."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._arrived.wait()
            self._arrived.clear()
            self._told = False
            batch = []
            while self._steps:
                batch.append(self._steps.popleft())
            yield batch
