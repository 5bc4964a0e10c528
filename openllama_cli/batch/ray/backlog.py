"""Rows that wait for a worker: fresh ones from the input, and those whose worker was lost, which are retried.

A row that kills its worker must not take others down with it. After the first loss, the rows of the lost worker are
retried together, apart from fresh ones; after a second loss each is alone with its worker, so that whatever kills that worker
then is known. A row is retried three times at most.
"""

from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice

from openllama_cli.batch.input.rows import Row

MOST_RETRIES = 3


class Backlog:
    """Hands out rows. rows: read as they are needed."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._fresh = iter(rows)
        self._read_all = False
        self._lost: deque[Row] = deque()
        self._losses: Counter[int] = Counter()  # row index → workers that were lost while they had it

    @property
    def empty(self) -> bool:
        """Whether nothing waits: the input was read to its end, and no row is to be retried."""
        return self._read_all and not self._lost

    def pop(self, held: Iterable[Row], batch_size: int, most: int) -> list[Row]:
        """More rows for a worker.

        held: what it has. batch_size: its. most: how many fresh rows it may have, waiting ones included.
        """
        held = list(held)
        if self._lost and not held:
            return self._pop_lost(batch_size)
        if self._read_all or any(self._losses[row.index] for row in held):
            return []
        wanted = max(0, most - len(held))
        rows = list(islice(self._fresh, wanted))
        self._read_all = len(rows) < wanted
        return rows

    def lose(self, rows: Iterable[Row]) -> list[Row]:
        """Count a loss for every row of a lost worker; returns those that may not be retried."""
        given_up = []
        for row in reversed(list(rows)):
            self._losses[row.index] += 1
            if self._losses[row.index] > MOST_RETRIES:
                given_up.append(row)
            else:
                # In front: what is known of a row is used before more workers are risked.
                self._lost.appendleft(row)
        return given_up

    def _pop_lost(self, batch_size: int) -> list[Row]:
        rows = [self._lost.popleft()]
        if self._losses[rows[0].index] == 1:
            while self._lost and self._losses[self._lost[0].index] == 1 and len(rows) < batch_size:
                rows.append(self._lost.popleft())
        return rows
