"""How long work reports how far it is, without knowing what shows it."""

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Progress(Protocol):
    """One piece of work at a time: `start`, any number of `advance`, `finish`. `terminal.progress` draws it."""

    def start(self, label: str, total_bytes: int | None) -> None:
        """Begin a piece of work. total_bytes None: it is not known how much there is."""
        return

    def advance(self, count: int) -> None:
        """`count` more bytes are done; a negative count takes back bytes that have to be done again."""
        return

    def finish(self) -> None:
        """The piece of work has ended, well or not."""
        return


class NullProgress(Progress):
    """Progress that nobody looks at: the methods as they stand above."""


@contextlib.contextmanager
def shown(progress: Progress, label: str, total_bytes: int | None) -> Iterator[None]:
    """One piece of work: `progress.start` before the block, and `progress.finish` after it, however it ends."""
    progress.start(label, total_bytes)
    try:
        yield
    finally:
        progress.finish()
