"""Ctrl-C and SIGTERM during a batch: the first gives the rows in flight a moment to finish, the second stops at once."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

from openllama_cli.errors import Terminated

# A row may take minutes. Whoever stops a batch wants it stopped; rows that are not finished by then are run again on resuming.
GRACE_SECONDS = 1.5


class GracefulStop:
    """Handles SIGINT and SIGTERM while its context lasts; only in the main thread.

    requested: whether to begin no more rows. After the first signal the context's work has `GRACE_SECONDS`; then, or at a
    second signal, KeyboardInterrupt (SIGINT) or Terminated (SIGTERM) is raised in it. If the work ends before that, `finish`
    raises it. notice: called once, at the first signal.
    """

    def __init__(self, notice: Callable[[str], None]) -> None:
        self.requested = False
        self._notice = notice
        self._number = signal.SIGINT
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulStop":
        handlers = {signal.SIGINT: self._first, signal.SIGTERM: self._first, signal.SIGALRM: self._now}
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def finish(self) -> None:
        """Raise what the signal stands for, if there was one."""
        if self.requested:
            self._raise()

    def _first(self, number: int, frame: FrameType | None) -> None:
        self._number = signal.Signals(number)
        if self.requested:
            self._raise()
        self.requested = True
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        self._notice("stopping: rows in flight have a moment to finish; repeat to stop at once")

    def _now(self, number: int, frame: FrameType | None) -> None:
        self._raise()

    def _raise(self) -> NoReturn:
        # Nothing may interrupt what is closed and written on the way out.
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Terminated if self._number == signal.SIGTERM else KeyboardInterrupt
