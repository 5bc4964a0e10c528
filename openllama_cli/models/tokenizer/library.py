"""Calling the `tokenizers` library with what files and users bring: whatever it raises becomes an OlcError, within a time.

Its panics derive from BaseException and would pass every other handler, and each writes a traceback of its own to stderr.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from openllama_cli.errors import OlcError, Terminated
from openllama_cli.system.bounds import in_thread

T = TypeVar("T")

# Python's own ways to end: they pass. All others, MemoryError and panics among them, are answers to what was given.
_PASS = (KeyboardInterrupt, SystemExit, GeneratorExit, Terminated, OlcError)


@contextlib.contextmanager
def failures_as(make: Callable[[BaseException], OlcError]) -> Iterator[None]:
    """Raise make(error) for whatever the library raises inside."""
    try:
        yield
    except _PASS:
        raise
    except BaseException as error:
        raise make(error) from error


class _Silence:
    """Standard error sent nowhere while at least one thread is inside: the first in redirects it, the last out restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = _redirected()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                os.dup2(self._saved, 2)
                os.close(self._saved)
                self._saved = None


def _redirected() -> int | None:
    """Send file descriptor 2 nowhere; a descriptor of where it went before, None if that cannot be done."""
    try:
        saved = os.dup(2)
    except OSError:  # stderr is closed
        return None
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        os.close(saved)
        return None
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return saved


_SILENCE = _Silence()


def without_panic_messages() -> _Silence:
    """Nothing that is written to file descriptor 2 inside is seen: a panic's message cannot be silenced in another way."""
    return _SILENCE


def within(seconds: float, work: Callable[[], T]) -> T:
    """work(), or TimeoutError once it takes longer than that.

    The library cannot be interrupted, so it works in a thread, which is left behind in that case. work must let others have
    Python's lock meanwhile.
    """
    # It would start threads for a batch, and warn on stderr once the process forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with without_panic_messages():
        results, failures = in_thread(seconds, work, "olc-tokenizer")
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError(f"it takes longer than {seconds:.0f} s")
    return results[0]
