"""What tests of `olc batch` share."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.output import OutputFiles, open_journal
from openllama_cli.batch.output.results import Result

GREEDY = ("-n", "6", "--dtype", "float32")
HEADER = {"input": {"sha256": "aa"}}


class Run(Protocol):
    """A process: subprocess's, or `tests.support.forked`'s."""

    def poll(self) -> int | None: ...


class Kept:
    """Results in memory, each row once."""

    def __init__(self) -> None:
        self.results: dict[int, Result] = {}

    def append(self, result: Result) -> None:
        assert result.index not in self.results, "a row was finished twice"
        self.results[result.index] = result

    def document(self, index: int) -> dict[str, Any]:
        return self.results[index].document

    @property
    def codes(self) -> dict[int, str | None]:
        return {index: result.code for index, result in self.results.items()}

    @property
    def failed(self) -> dict[int, str]:
        return {index: code for index, code in self.codes.items() if code is not None}

    @property
    def lines(self) -> dict[int, bytes]:
        return {index: result.line() for index, result in self.results.items()}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def finished(output: Path) -> int:
    """Whole rows in the journal."""
    journal = output.with_name(output.name + ".journal")
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    return sum(line.endswith(b"\n") and not line.startswith((b"{", b"ran ")) for line in lines)


def wait_for(condition: Callable[[], bool], run: Run, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, "it ended before"
        assert time.monotonic() < ends
        time.sleep(0.005)


def filled(files: OutputFiles, codes: list[str | None], **how: bool) -> Journal:
    """A journal with all rows finished, the last first."""
    journal = open_journal(files, HEADER, len(codes), **how)
    for index in reversed(range(len(codes))):
        if not journal.done(index):
            journal.append(index, codes[index], b'{"index": %d}' % index)
    return journal
