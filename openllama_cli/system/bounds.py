"""A limit on the memory and the time of work whose cost is decided by data from outside, such as a template."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from types import FrameType
from typing import Any, NoReturn, TypeVar

if sys.platform != "win32":
    import resource

T = TypeVar("T")

_CAN_TIME = hasattr(signal, "SIGVTALRM")


class Bounded:
    """A context for work that may take `bytes_` more memory than the process has now, and `seconds` of processor time.

    Raises MemoryError and TimeoutError in it. The memory limit is the kernel's (RLIMIT_AS), so no way of taking memory gets
    past it; while the block lasts it holds for the whole process, so other threads should be idle. The time is limited in the
    main thread only. Where the system has no such limits (memory: macOS) there are none. It costs some ten microseconds.
    """

    def __init__(self, bytes_: int, seconds: float) -> None:
        self._bytes, self._seconds = bytes_, seconds
        self._memory: tuple[int, int] | None = None
        self._handler: Any = None
        self._timed = False

    def __enter__(self) -> None:
        taken = _address_space()
        if taken is not None:
            limit, before = taken + self._bytes, resource.getrlimit(resource.RLIMIT_AS)
            if not any(0 <= given <= limit for given in before):  # RLIM_INFINITY is negative
                resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
                self._memory = before
        if _CAN_TIME and threading.current_thread() is threading.main_thread():
            self._timed, self._handler = True, signal.signal(signal.SIGVTALRM, self._stop)
            # Again and again: the exception may be lost once, in a destructor.
            signal.setitimer(signal.ITIMER_VIRTUAL, self._seconds, 0.5)

    def __exit__(self, *_: object) -> None:
        if self._timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self._handler)
        if self._memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, self._memory)

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"more than {self._seconds:g} s of processor time")


def in_thread(seconds: float, work: Callable[[], T], name: str) -> tuple[list[T], list[BaseException]]:
    """What `work` returns, or what it raises, within that time; neither when it takes longer.

    For work that nothing interrupts: it is done in a thread, which is left behind then.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as problem:
            failures.append(problem)

    thread = threading.Thread(target=run, daemon=True, name=name)
    thread.start()
    thread.join(seconds)
    return results, failures


def _address_space() -> int | None:
    """Bytes of address space that this process has; None where it cannot be told, or limited."""
    try:
        return int(os.pread(_statm(os.getpid()), 64, 0).split()[0]) * resource.getpagesize()
    except (OSError, ValueError, AttributeError):
        return None


@lru_cache(maxsize=1)
def _statm(process: int) -> int:
    """A descriptor that stays open: opening it would take longer than all the rest. A forked process needs its own."""
    return os.open("/proc/self/statm", os.O_RDONLY)
