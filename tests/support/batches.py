"""What tests of `olc batch` share."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

GREEDY = ("-n", "6", "--dtype", "float32")


class Run(Protocol):
    """A process: subprocess's, or `tests.support.forked`'s."""

    def poll(self) -> int | None: ...


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def finished(output: Path) -> int:
    """Whole rows in the journal."""
    journal = output.with_name(output.name + ".journal")
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def wait_for(condition: Callable[[], bool], run: Run, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, "it ended before"
        assert time.monotonic() < ends
        time.sleep(0.005)
