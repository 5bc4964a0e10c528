"""Results for a stream instead of a file: rows in the order of the input, each as soon as those before it are done."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openllama_cli.batch.journal.journal import Journal


class RowStream(Journal):
    """Takes finished rows as a journal does, and writes them to a stream; nothing is kept, so nothing can be resumed.

    write: called with each row's line of OUTPUT and its newline. Rows that wait for earlier ones are in memory: a few hundred,
    since rows run window by window.
    """

    kept = False

    def __init__(self, rows: int, write: Callable[[bytes], object]) -> None:
        super().__init__(Path("stdout"), rows)
        self._write_out = write
        self._waiting: dict[int, bytes] = {}
        self._next = 0

    def begin_run(self, where: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    def append(self, index: int, code: str | None, line: bytes) -> None:
        """Write a finished row, or keep it until its turn comes."""
        self._finished.set(index, code, 0)
        self._waiting[index] = line
        while (ready := self._waiting.pop(self._next, None)) is not None:
            self._write_out(ready + b"\n")
            self._next += 1

    def sync_if_due(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""
