"""The journal of a batch: every finished row on the disk, once, whatever happens to the process.

A row is one line (see `journal.format`), appended in one write, so a killed process leaves complete lines and at most one torn
end, which the next opening cuts off. Every 64 rows, and every second, the file is flushed to the disk: a power cut loses no
more than what came after.
"""

import contextlib
import heapq
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from openllama_cli.batch.journal import format as journal_format
from openllama_cli.batch.journal.disk import AGAIN, gone, replacing, write_error
from openllama_cli.batch.journal.format import Counts, FinishedRows, OutputRecord
from openllama_cli.batch.journal.header import differences, mismatch
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.system.files import write_all

SYNC_ROWS = 64
SYNC_SECONDS = 1.0
_MOST_ROWS = 1 << 31
# In the header, beside what the rows depend on.
OVER = "over"
# Of a run, how many rows it made.
ROWS = "rows"


class Journal:
    """The finished rows of one batch. Made by `Journal.open`; a context manager that closes it. Not for several threads.

    path, rows: as given. output: what was written as OUTPUT, once that is complete. damaged: lines that were found damaged and
    dropped; their rows are not done. torn: whether the end had to be cut off, as a killed process leaves it. over: whether it
    was begun to replace an OUTPUT. kept: whether it is a file, to resume from.
    """

    kept = True

    def __init__(self, path: Path, rows: int) -> None:
        self.path = path
        self.rows = rows
        self.output: OutputRecord | None = None
        self.damaged = 0
        self.torn = False
        self.over = False
        self._header: dict[str, Any] = {}
        self._runs: list[tuple[int, dict[str, Any]]] = []
        self._finished = FinishedRows(rows)
        self._size = 0
        self._descriptor: int | None = None
        self._unsynced = 0
        self._oldest_unsynced = 0.0
        self._failure: OlcError | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        header: Mapping[str, object],
        rows: int,
        *,
        retry_errors: bool = False,
        restart: bool = False,
        over: bool = False,
    ) -> Self:
        """Open the journal of a batch, or create it.

        header: what the rows depend on (input, model, tokenizer, template, options), in types that JSON has. rows: how many
        the input has. retry_errors: failed rows count as not done until they are appended again. restart: start over,
        whatever is there. over: an OUTPUT is there that this run was told to replace; noted where the journal is begun.

        A journal under another header is replaced while it has no rows. Raises UsageError (code "journal_mismatch",
        "journal_damaged" or "journal_newer") when its rows must not be mixed with those of this run; OlcError when it cannot
        be read or written.
        """
        wanted = journal_format.normalize(header, rows)
        try:
            if restart or not path.exists() or path.stat().st_size == 0 or not _continues(path, wanted):
                with replacing(path) as file:
                    file.write(journal_format.encode_header(wanted | {OVER: True} if over else wanted))
            journal = cls(path, rows)
            journal._read()
            if not journal.complete:
                journal._open_for_appending()
        except OSError as problem:
            raise write_error(problem, path) from problem
        if retry_errors:
            journal._finished.remove_failed()
        return journal

    @classmethod
    def peek(cls, path: Path) -> Self:
        """What a journal has, while its batch runs or after it was interrupted; for `finished_lines`, nothing is changed.

        Raises OlcError for one that cannot be read, UsageError for one that is damaged.
        """
        try:
            with path.open("rb") as file:
                rows = journal_format.read_header(file, path).get("rows")
            if type(rows) is not int or not 0 < rows < _MOST_ROWS:
                raise UsageError(
                    f"{path} has a damaged first line", "start its batch over with --restart", code="journal_damaged"
                )
            journal = cls(path, rows)
            journal._read()
        except OSError as problem:
            raise OlcError(f"{path} cannot be read: {problem.strerror}", "check the path and its permissions") from problem
        return journal

    @property
    def complete(self) -> bool:
        """Whether OUTPUT was written and no row failed: nothing is left to do, and the journal no longer has the rows."""
        return self.output is not None

    @property
    def counts(self) -> Counts:
        """How many rows are finished, and how many of them failed with which codes."""
        return Counts(self.rows, 0, {}) if self.complete else self._finished.counts

    def done(self, index: int) -> bool:
        """Whether a row is finished, well or with an error."""
        return self.complete or index in self._finished

    def begin_run(self, where: Mapping[str, Any]) -> None:
        """Say in which surroundings the rows are made that are appended next, in types that JSON has.

        Raises OlcError when the disk refuses it.
        """
        run = json.loads(json.dumps(where))
        if self._runs and self._runs[-1][1] == run:
            return
        record = journal_format.encode_record(None, None, json.dumps(run).encode(), ran=True)
        self._write(record)
        self._runs.append((self._size, run))
        self._size += len(record)

    @property
    def runs(self) -> list[dict[str, Any]]:
        """In which surroundings rows were made, each with `rows`, how many. Rows of which nothing is known have no more than
        that.
        """
        if self.complete:
            return [run for _, run in self._runs] or [{ROWS: self.rows}]
        counts = self._finished.in_parts([offset for offset, _ in self._runs])
        runs = [{}, *(run for _, run in self._runs)]
        return [{**run, ROWS: count} for run, count in zip(runs, counts, strict=True) if count]

    def append(self, index: int, code: str | None, line: bytes) -> None:
        """Add a finished row. code: of its error, None if it succeeded. line: its line of OUTPUT (JSON), without newline.

        Raises OlcError when the disk refuses it: the row is then not done, and what was written of it is cut off, now or at the
        next opening. Raises ValueError for a row that is done already.
        """
        if self.done(index):
            raise ValueError(f"row {index} is finished already")
        record = journal_format.encode_record(index, code, line)
        self._write(record)
        self._finished.set(index, code, self._size)
        self._size += len(record)
        if self._unsynced == 0:
            self._oldest_unsynced = time.monotonic()
        self._unsynced += 1
        if self._unsynced >= SYNC_ROWS:
            self.sync()
        else:
            self.sync_if_due()

    def sync_if_due(self) -> None:
        """`sync` if a row has waited for a second: for a caller whose rows are slow, as often as it likes."""
        if self._unsynced and time.monotonic() - self._oldest_unsynced >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Flush the appended rows to the disk. Raises OlcError when that fails, or when the journal is gone from its place."""
        descriptor = self._usable()
        try:
            os.fsync(descriptor)
            there, here = self.path.stat(), os.fstat(descriptor)
        except (FileNotFoundError, NotADirectoryError) as problem:
            raise self._fail(gone(self.path)) from problem
        except OSError as problem:
            # After a failed flush nobody knows which rows are on the disk: only reading it again can tell.
            raise self._fail(write_error(problem, self.path)) from problem
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            raise self._fail(gone(self.path))
        self._unsynced = 0

    def lines(self) -> Iterator[bytes]:
        """Every row's line in the order of the input, without newline, read from the file and checked.

        Raises OlcError when the file cannot be read or was damaged since it was opened, ValueError when a row is not done.
        """
        return self._lines(range(self.rows))

    def _lines(self, rows: Iterable[int]) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                for index in rows:
                    offset = self._finished.offset(index)
                    if offset is None:
                        raise ValueError(f"row {index} is not finished")
                    file.seek(offset)
                    record = journal_format.decode_record(file.readline(journal_format.LONGEST_LINE), offset)
                    if record is None or record.index != index:
                        raise OlcError(f"{self.path} was changed during the run: row {index} is damaged", AGAIN)
                    yield record.line
        except OSError as problem:
            raise OlcError(f"{self.path} cannot be read: {problem.strerror}", AGAIN) from problem

    def finished_lines(self) -> Iterator[bytes]:
        """`lines` of the rows that are done."""
        return self._lines(index for index in range(self.rows) if index in self._finished)

    def records(self) -> Iterator[bytes]:
        """The lines of the file that have the rows which are done, and those that say where, to be copied."""
        starts = [offset for offset, _ in self._runs]
        rows = [offset for index in self._finished.in_file() if (offset := self._finished.offset(index)) is not None]
        with self.path.open("rb") as file:
            for offset in heapq.merge(starts, rows):
                file.seek(offset)
                yield file.readline(journal_format.LONGEST_LINE)

    def finish(self, output: OutputRecord) -> None:
        """Replace the rows, in one step, by a line that marks OUTPUT as complete; the journal is closed.

        Raises OlcError when the disk refuses; the rows are then still there. Raises ValueError unless every row succeeded.
        """
        counts = self.counts
        if counts.failed or counts.done != self.rows:
            raise ValueError(f"a journal with {counts.failed} failed and {self.rows - counts.done} missing rows is kept")
        runs = self.runs if self._runs else []
        self.close()
        with replacing(self.path) as file:
            file.write(journal_format.encode_header(self._header))
            for run in runs:
                file.write(journal_format.encode_record(None, None, json.dumps(run).encode(), ran=True))
            file.write(journal_format.encode_record(None, None, json.dumps(asdict(output)).encode()))
        self.output, self._runs = output, [(0, run) for run in runs]

    def close(self) -> None:
        """Flush and close. Raises OlcError when the flush fails; it is closed all the same. Closing twice does nothing."""
        if self._descriptor is None:
            return
        try:
            if self._unsynced and self._failure is None:
                self.sync()
        finally:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # What went wrong first is what the user has to know.
        with contextlib.suppress(OlcError) if error is not None else contextlib.nullcontext():
            self.close()

    def _read(self) -> None:
        """Read the file: the header, which rows are finished, and where the complete lines end."""
        with self.path.open("rb") as file:
            self._header = journal_format.read_header(file, self.path)
            self.over = bool(self._header.pop(OVER, False))
            self._size = file.tell()
            for end, record in journal_format.read_records(file):
                self._size = end
                if record is None or (record.index is not None and record.index >= self.rows):
                    self.damaged += 1
                elif record.index is not None:
                    self._finished.set(record.index, record.code, record.offset)
                elif record.ran and (run := journal_format.decode_run(record.line)) is not None:
                    self._runs.append((record.offset, run))
                elif not record.ran and (output := journal_format.decode_output(record.line)) is not None:
                    self.output = output
                else:
                    self.damaged += 1

    def _open_for_appending(self) -> None:
        """Cut off a torn end, and open the file where the next line goes."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            self.torn = os.fstat(descriptor).st_size > self._size
            if self.torn:
                os.ftruncate(descriptor, self._size)
                os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _write(self, record: bytes) -> None:
        descriptor = self._usable()
        try:
            write_all(descriptor, record)
        except OSError as problem:
            error = write_error(problem, self.path)
            try:
                os.ftruncate(descriptor, self._size)
            except OSError:
                # A later line would be glued to what is there of this one.
                self._fail(error)
            raise error from problem

    def _usable(self) -> int:
        if self._failure is not None:
            raise self._failure
        if self._descriptor is None:
            raise ValueError("the journal is closed")
        return self._descriptor

    def _fail(self, error: OlcError) -> OlcError:
        """Remember an error after which nothing may be appended."""
        self._failure = error
        return error


def _continues(path: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a journal's rows are those of this run; False if it has none. Raises UsageError if they are another run's."""
    with path.open("rb") as file:
        header = journal_format.read_header(file, path)
        header.pop(OVER, None)
        changed = differences(header, wanted)
        if not changed:
            return True
        if all(record is None or record.ran for _, record in journal_format.read_records(file)):
            return False
    raise mismatch(path, changed)
