"""Entries that wait for those of a file in another order: in a temporary file, in a form that is read quickly."""

import contextlib
import marshal
import os
import tempfile
from dataclasses import fields, replace
from operator import attrgetter
from types import TracebackType

from openllama_cli.compare.entries import Entry
from openllama_cli.compare.lines import Lines
from openllama_cli.errors import UsageError

# Where an entry stands in the temporary file, and how long it is there, in bytes.
Place = tuple[int, int]
_values = attrgetter(*(field.name for field in fields(Entry)))


class Kept:
    """A context that ends with its file. Raises UsageError where that cannot be written, or read."""

    def __init__(self, lines: Lines) -> None:
        """lines: of which the entries are."""
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        except OSError as problem:
            raise _no_room(problem) from problem
        self._lines, self._end, self._written = lines, 0, True

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # What could not be written is written again then.
            self._file.close()

    def add(self, entry: Entry, offset: int, within: int) -> Place:
        """Keep an entry of a line. offset: of the line in its file; within: its place in the line."""
        try:
            data = marshal.dumps((offset, within, _values(entry)))
        except ValueError:  # Nested too deeply.
            data = marshal.dumps((offset, within, entry.key))
        try:
            self._file.write(data)
        except OSError as problem:
            raise _no_room(problem) from problem
        place, self._written = (self._end, len(data)), False
        self._end += len(data)
        return place

    def get(self, place: Place) -> tuple[Entry, int, int]:
        """The entry that was kept there, with offset and place in the line."""
        try:
            if not self._written:
                self._file.flush()
                self._written = True
            offset, within, values = marshal.loads(os.pread(self._file.fileno(), place[1], place[0]))
        except OSError as problem:
            raise _no_room(problem) from problem
        if isinstance(values, str):
            return replace(self._lines.entry(offset, within), key=values), offset, within
        return Entry(*values), offset, within


def _no_room(problem: OSError) -> UsageError:
    return UsageError(
        f"olc diff's temporary file failed: {problem.strerror}",
        f"free space in {tempfile.gettempdir()}, or name another folder in TMPDIR",
        code="diff_temporary",
    )
