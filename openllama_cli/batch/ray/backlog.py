"""Rows that wait for a worker: fresh ones from the input, and those whose worker was lost, which are done again.

A row that kills its worker must not take others with it for ever. After the first loss, the rows of the lost worker are done
again together, apart from fresh ones; after a second loss each is alone with its worker, so that whatever kills that worker
then is known. A row is done again three times at most.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from openllama_cli.batch.input.rows import Row

MOST_RETRIES = 3


@dataclass
class Job:
    """A row, and how many workers were lost while they had it."""

    row: Row
    losses: int = 0


class Backlog:
    """Hands out rows. rows: read as they are needed."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._fresh = iter(rows)
        self._read_all = False
        self._lost: deque[Job] = deque()

    @property
    def empty(self) -> bool:
        """Whether nothing waits: the input was read to its end, and no row is to be done again."""
        return self._read_all and not self._lost

    def take(self, held: Iterable[Job], rows: int, most: int) -> list[Job]:
        """More rows for a worker.

        held: what it has. rows: how many it runs side by side. most: how many fresh ones it may have, waiting ones included.
        """
        held = list(held)
        if self._lost and not held:
            return self._take_lost(rows)
        if any(job.losses for job in held) or self._read_all:
            return []
        wanted = max(0, most - len(held))
        taken = [Job(row) for row in islice(self._fresh, wanted)]
        self._read_all = len(taken) < wanted
        return taken

    def lose(self, jobs: Iterable[Job]) -> list[Job]:
        """Count a loss for every row of a lost worker; returns those that may not be done again."""
        given_up = []
        for job in reversed(list(jobs)):
            job.losses += 1
            if job.losses > MOST_RETRIES:
                given_up.append(job)
            else:
                # In front: what is known of a row is used before more workers are risked.
                self._lost.appendleft(job)
        return given_up

    def _take_lost(self, rows: int) -> list[Job]:
        taken = [self._lost.popleft()]
        while taken[0].losses == 1 and self._lost and self._lost[0].losses == 1 and len(taken) < rows:
            taken.append(self._lost.popleft())
        return taken
