"""`olc serve` as a process of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.forked import Forked


class Process:
    """A server that says it is ready. lines: what it has written to stderr so far."""

    def __init__(self, run: Forked, stderr: Any) -> None:
        self.run, self._stderr = run, stderr
        self.lines: list[str] = []
        self.url = self.said("page  ").rstrip("/")

    def said(self, words: str) -> str:
        """What follows some words in the line that has them, as soon as it has been written."""
        while True:
            line = self._stderr.readline()
            assert line, self.lines
            self.lines.append(line)
            if words in line:
                return str(line.partition(words)[2].strip())

    def end(self, number: int) -> int:
        """Send a signal; returns the exit code."""
        self.run.send_signal(number)
        code = self.run.wait()
        self.lines += self._stderr.readlines()
        return code


@contextmanager
def process(*arguments: str) -> Iterator[Process]:
    reader, writer = os.pipe()
    with os.fdopen(reader) as stderr, Forked("serve", "--port", "0", *arguments, stderr=writer) as run:
        os.close(writer)
        yield Process(run, stderr)
        run.kill()
