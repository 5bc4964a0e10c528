"""Large outputs are compared by several processes, each of which reads the rows whose custom_id's checksum falls to it.

That makes the same differences where every line is a row with a custom_id of its own, which is what `olc batch` writes. Where
a process meets anything else, even a line that is no row, all is compared in one, from the beginning.
"""

import contextlib
import gc
import heapq
import io
import json
import marshal
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any, BinaryIO
from zlib import crc32

from openllama_cli.compare.difference import (
    Candidate,
    Difference,
    Divergence,
    Known,
    Summary,
    counted,
    differences_of,
    placed_differences,
)
from openllama_cli.compare.entries import Entry
from openllama_cli.compare.lines import Lines

# Bytes of both files from which on it is worth starting processes, and how many of them: each reads all lines.
_LARGE = 16 << 20
_MOST = 4
_AT_A_TIME = 200
# The custom_id of a line: a string without escapes that does not end as those of second and later samples do, or another.
_ID = re.compile(rb'"custom_id": ?(?:"([^"\\]*+)(?<!\])"|("(?:[^"\\]|\\.)*+"|-?[0-9]++))')
_NUMBERED = re.compile(rb"(?: \[[0-9]+\])+$")
# A place that no line has: how many rows stand before one in the file is not known, and tells only those without a custom_id.
_NOWHERE = -(1 << 60)


class _IrregularError(Exception):
    """The rows of a file cannot be told apart by their custom_ids without all others."""


def differences(a: Lines, b: Lines, known: Known, summary: Summary) -> Iterator[Difference]:
    """What `difference.differences_of` gives; of large files at the end, and their entries without tokens.

    Raises UsageError for a line that is not a row.
    """
    if sys.platform == "linux" and _size(a) + _size(b) >= _LARGE:  # Elsewhere a process that forks may not find its libraries.
        parts = min(len(os.sched_getaffinity(0)), _MOST)
        with contextlib.ExitStack() as files:
            results = [files.enter_context(tempfile.TemporaryFile()) for _ in range(parts)]
            if parts > 1 and _all_regular(a, b, known, results):
                yield from _merged(results, summary)
                return
    yield from differences_of(a, b, known, summary)


def _size(lines: Lines) -> int:
    try:
        return os.fstat(lines.file.fileno()).st_size
    except (OSError, ValueError):  # stdin of another kind, as a test has it
        return 0


def _all_regular(a: Lines, b: Lines, known: Known, results: Sequence[BinaryIO]) -> bool:
    """Have processes write what they find, one to a file each. Whether all found nothing but rows of their own."""
    context = multiprocessing.get_context("fork")
    # Of their own, since a process begins by closing stdin, which may be one of the files.
    inputs = [(lines.name, os.dup(lines.file.fileno())) for lines in (a, b)]
    work: list[BaseProcess] = [
        context.Process(target=_run, args=(inputs, known, file, part, len(results)), daemon=True)
        for part, file in enumerate(results)
    ]
    try:
        for process in work:
            process.start()
        running: dict[Any, BaseProcess] = {process.sentinel: process for process in work}
        while running:
            for ended in multiprocessing.connection.wait(list(running)):
                process = running.pop(ended)
                process.join()
                if process.exitcode != 0:
                    return False
        return True
    except OSError:  # No process more is allowed.
        return False
    finally:
        for process in work:
            if process.pid is not None:
                process.kill()
                process.join()
        for _, descriptor in inputs:
            os.close(descriptor)


def _run(inputs: Sequence[tuple[str, int]], known: Known, file: BinaryIO, part: int, parts: int) -> None:
    """In a process of its own, which says by its exit code alone how it ended; the parent reads all lines if it has to."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent has it too, and ends this one.
        gc.disable()  # Rows are no cycles.
        starter = os.getppid()
        sides = [_Part(name, io.BufferedReader(_Positioned(descriptor)), part, parts, starter) for name, descriptor in inputs]
        _write(file, placed_differences(sides[0], sides[1], known, summary := Summary()), summary, sides[1])
        code = 0
    finally:
        os._exit(code)


def _write(file: BinaryIO, found: Iterator[tuple[int, int, Difference]], summary: Summary, b: "_Part") -> None:
    rows: list[tuple[Any, ...]] = []
    for offset, within, difference in found:
        only_in_b = difference.a is None
        if only_in_b and b.repeated:
            raise _IrregularError
        rows.append((only_in_b, offset, within, *_flat(difference)))
        if len(rows) == _AT_A_TIME:
            _append(file, rows)
            rows.clear()
    _append(file, rows)
    _append(file, [(2, b.part, 0, summary.rows_a, summary.rows_b, summary.equal, summary.logprob_difference)])
    file.flush()


def _append(file: BinaryIO, rows: list[Any]) -> None:
    data = marshal.dumps(rows)
    file.write(len(data).to_bytes(8, "little") + data)


def _merged(results: Sequence[BinaryIO], summary: Summary) -> Iterator[Difference]:
    for section, *row in heapq.merge(*map(_read, results)):
        if section == 2:
            _, _, rows_a, rows_b, equal, logprob_difference = row
            summary.rows_a += rows_a
            summary.rows_b += rows_b
            summary.equal += equal
            if logprob_difference is not None:
                summary.logprob_difference = max(summary.logprob_difference or 0.0, logprob_difference)
        else:
            yield counted(_difference(*row[2:]), summary)


def _read(file: BinaryIO) -> Iterator[tuple[Any, ...]]:
    file.seek(0)
    while size := file.read(8):
        yield from marshal.loads(file.read(int.from_bytes(size, "little")))


def _flat(found: Difference) -> tuple[Any, ...]:
    parting = found.divergence
    sides = [
        None
        if one is None
        else (one.key, one.prompt, one.text, one.finish_reason, one.error, one.model, None, (), (), (), one.score)
        for one in (found.a, found.b)
    ]
    return found.cause, *sides, None if parting is None else _flat_divergence(parting), found.common


def _flat_divergence(parting: Divergence) -> tuple[Any, ...]:
    sides = [None if one is None else (one.text, one.id, one.logprob, one.margin) for one in (parting.a, parting.b)]
    return parting.unit, parting.place, *sides


def _difference(cause: Any, a: Any, b: Any, parting: Any, common: int) -> Difference:
    sides = [None if one is None else Entry(*one) for one in (a, b)]
    divergence = None
    if parting is not None:
        unit, place, *candidates = parting
        divergence = Divergence(unit, place, *(None if one is None else Candidate(*one) for one in candidates))
    return Difference(cause, sides[0], sides[1], divergence, common)


class _Positioned(io.RawIOBase):
    """A file that another process reads too: where this one reads is its own affair."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._place = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._place = offset + (self._place if whence == os.SEEK_CUR else 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        count = os.preadv(self._descriptor, [buffer], self._place)
        self._place += count
        return count


@dataclass
class _Part(Lines):
    """The lines of a file that fall to one process. starter: the process that waits for it.

    repeated: whether two of their entries have the same key, as far as they were read.
    """

    part: int
    parts: int
    starter: int
    repeated: bool = field(init=False, default=False)

    def entries(self, like: Lines | None = None) -> Iterator[tuple[Entry, int, int]]:
        """Raises _IrregularError for a row whose custom_id is not seen in its line, or once nobody waits for them."""
        self.file.seek(0)
        seen: set[int] = set()
        offset = 0
        while line := self._read(0):
            told = _ID.search(line)
            if told is None:
                if not line.isspace():
                    raise _IrregularError
            else:
                key = shared = told[1]
                if key is None:
                    key = str(json.loads(told[2])).encode(errors="surrogatepass")
                    shared = _NUMBERED.sub(b"", key)
                if crc32(shared) % self.parts == self.part:
                    found = self._found(line, 0, _NOWHERE, like)
                    if found[0].key.encode(errors="surrogatepass") != key or os.getppid() != self.starter:
                        raise _IrregularError
                    for within, entry in enumerate(found):
                        if like is not None:
                            self.repeated = self.repeated or hash(entry.key) in seen
                            seen.add(hash(entry.key))
                        yield entry, offset, within
            offset += len(line)
