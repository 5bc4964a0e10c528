"""How many threads decode while other programs need the processors too.

The threads of a decode step wait for each other after each matrix, some 150 times. One whose processor was given to another
program holds up all, for milliseconds. So fewer threads may be faster then. That depends on the scheduler, and is tried. No
result depends on the number of threads.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_SCHEDSTAT = Path("/proc/thread-self/schedstat")
# The share of a step that its first thread waits for a processor: with a busy program for each of them a third to a half, on a
# quiet machine next to none.
_CROWDED = 0.1
# Steps until the other number of threads is tried again; twice as many each time that it was slower. A trial may take a second.
_FIRST_WAIT, _LONGEST_WAIT = 16, 64


class Crowding:
    """All of torch's threads, or half while that is faster on a crowded machine: `with crowding.step(rows) as threads`."""

    def __init__(self) -> None:
        self.half = False  # Whether the next step is one of half the threads.
        self._wait, self._next_wait = 0, _FIRST_WAIT
        self._before_trial: tuple[int, float] | None = None  # Rows and seconds of a step.

    @contextmanager
    def step(self, rows: int) -> Iterator[int]:
        """A decode step of so many rows: the number of threads for it."""
        full = torch.get_num_threads()
        if full == 1:
            yield 1
            return
        threads = full // 2 if self.half else full
        before, since = _waited(), time.perf_counter()
        yield threads
        seconds = time.perf_counter() - since
        self.update(rows, seconds, crowded=_waited() - before > _CROWDED * seconds)

    def update(self, rows: int, seconds: float, *, crowded: bool) -> None:
        """Choose for the next step by what this one took. A trial is one step of as many rows."""
        before, self._before_trial = self._before_trial, None
        if before is not None:
            slower = before[0] != rows or before[1] <= seconds
            self.half ^= slower
            self._next_wait = min(2 * self._next_wait, _LONGEST_WAIT) if slower else _FIRST_WAIT
            self._wait = self._next_wait
        elif not self.half and not crowded:
            self._wait, self._next_wait = 0, _FIRST_WAIT
        elif self._wait:
            self._wait -= 1
        else:
            self._before_trial = (rows, seconds)
            self.half = not self.half


def _waited() -> float:
    """Seconds that this thread could have run and had no processor (Linux); 0 where the system does not tell."""
    try:
        return int(_SCHEDSTAT.read_bytes().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
