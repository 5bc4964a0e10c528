"""A process that journals rows and writes OUTPUT, and kills itself at a chosen point (or is killed by its parent).

python -m tests.support.dying_writer OUTPUT ROWS SEED POINT AT: journals the rows that are not finished, in an order that
depends on SEED, printing each index once `append` has returned; then writes OUTPUT. POINT says where to die, AT at which
append or row.
"""

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.output import OutputFiles, write_output

HEADER = {"input": {"sha256": "1f"}, "model": {"files": {}}, "tokenizer": "2e", "template": None, "options": {"temperature": 0}}


def line(index: int) -> bytes:
    """The line of a row: lengths differ, some are longer than a page, and it holds what could be taken for a record."""
    length = index * 37 % 200 * (20 if index % 9 == 0 else 1)
    return b'{"index": %d, "text": "%s 5 0badc0de - {}"}' % (index, "é\u2028".encode() * length)


def expected(rows: int) -> bytes:
    """OUTPUT as an uninterrupted run writes it."""
    return b"".join(line(index) + b"\n" for index in range(rows))


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


class DyingJournal(Journal):
    """A journal whose process dies "before append", "amid append", "after append" or "amid output"."""

    point = "never"
    at = 0
    appends = 0

    def _write(self, record: bytes) -> None:
        self.appends += 1
        if self.appends == self.at:
            if self.point == "before append":
                die()
            if self.point == "amid append":
                os.write(self._usable(), record[: random.randrange(1, len(record))])
                die()
        super()._write(record)
        if self.appends == self.at and self.point == "after append":
            die()

    def lines(self) -> Iterator[bytes]:
        for count, row in enumerate(super().lines(), start=1):
            if self.point == "amid output" and count == self.at:
                die()
            yield row


def die_at_rename(point: str) -> None:
    """Make this process die at "before rename of .jsonl", or "after": when a file of that name takes its place."""
    when, _, suffix = point.partition(" rename of ")
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if when == "before" and target.name.endswith(suffix):
            die()
        moved = rename(self, target)
        if when == "after" and target.name.endswith(suffix):
            die()
        return moved

    Path.replace = replace  # type: ignore[method-assign,assignment]


def main(output: str, rows: str, seed: str, point: str, at: str) -> None:
    files, count = OutputFiles.of(Path(output)), int(rows)
    DyingJournal.point, DyingJournal.at = point, int(at)
    if " rename of " in point:
        die_at_rename(point)
    with DyingJournal.open(files.journal, HEADER, count) as journal:
        order = [index for index in range(count) if not journal.done(index)]
        random.Random(int(seed)).shuffle(order)
        for index in order:
            journal.append(index, None, line(index))
            print(index, flush=True)
        if not journal.complete:
            write_output(journal, files.output)


if __name__ == "__main__":
    main(*sys.argv[1:])
