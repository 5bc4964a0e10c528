"""A process that journals rows and writes OUTPUT, and kills itself at a chosen point (or is killed by its parent).

`main` journals the rows that are not finished, printing each index once `append` has returned; then it writes the output.
"""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from openllama_cli.batch.journal import journal as journal_module
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


def arm(point: str, at: int = 0) -> None:
    """Make this process die "before append", "amid append" or "after append" number `at`, "amid output" at its row `at`, or
    "before rename of .jsonl" (or "after"), when a file of that name takes its place.
    """
    write, lines, rename = journal_module.write_all, Journal.lines, Path.replace
    appends = 0

    def write_all(descriptor: int, record: bytes) -> None:
        nonlocal appends
        appends += 1
        here = point if appends == at else ""
        if here == "before append":
            die()
        if here == "amid append":
            os.write(descriptor, record[: random.randrange(1, len(record))])
            die()
        write(descriptor, record)
        if here == "after append":
            die()

    def dying_lines(self: Journal) -> Iterator[bytes]:
        for count, row in enumerate(lines(self), start=1):
            if point == "amid output" and count == at:
                die()
            yield row

    when, _, suffix = point.partition(" rename of ")

    def replace(self: Path, target: Path) -> Path:
        named = bool(suffix) and target.name.endswith(suffix)
        if named and when == "before":
            die()
        moved = rename(self, target)
        if named and when == "after":
            die()
        return moved

    journal_module.write_all, Journal.lines, Path.replace = write_all, dying_lines, replace  # type: ignore


def main(output: str, rows: int, seed: int, point: str, at: int) -> None:
    """seed: of the order of the rows. point, at: as of `arm`."""
    files = OutputFiles.of(Path(output))
    arm(point, at)
    with Journal.open(files.journal, HEADER, rows) as journal:
        order = [index for index in range(rows) if not journal.done(index)]
        random.Random(seed).shuffle(order)
        for index in order:
            journal.append(index, None, line(index))
            print(index, flush=True)
        if not journal.complete:
            write_output(journal, files.output)
