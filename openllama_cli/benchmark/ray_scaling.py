"""How many workers one driver keeps busy: python -m openllama_cli.benchmark.ray_scaling [WORKERS] [ROWS_PER_S]

Starts a cluster of its own on this machine with WORKERS workers (12) that finish ROWS_PER_S rows a second each (300), one after
the other, as at a batch size of 16. They compute nothing and sleep between rows, so that many of them fit on few cores;
all else is what it is in a batch: the rows that wait at a worker, its answers, the driver, a journal in the temporary folder.
Measures ten seconds once all workers are there, and prints one line of JSON; `of_possible` is the share of what the workers
could do.
"""

import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.results import Results
from openllama_cli.batch.ray.cluster import connect
from openllama_cli.batch.ray.options import RayOptions, WorkerPlan
from openllama_cli.batch.ray.worker import LoadFailure, RayWorker, Ready, Setup, WorkQueue
from openllama_cli.batch.runner import MOST_ON_CPU
from openllama_cli.benchmark.journal import HEADER, result
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.spec import ModelSpec

WORKERS, ROWS_PER_S = 12, 300.0
_SECONDS = 10.0
_PROMPT = "Q: What is the largest animal?\nA:"


class Pace:
    """A decode loop from outside: reads rows, and finishes one every 1 / rows_per_s seconds. It reports no tokens."""

    tokens = 0

    def __init__(self, queue: WorkQueue, rows_per_s: float) -> None:
        self._queue, self._seconds = queue, 1 / rows_per_s
        self._due = time.perf_counter()

    def run(self, rows: Iterable[Row]) -> Iterator["Pace"]:
        """Finish rows; a worker that had none for a while does not catch up."""
        for row in rows:
            now = time.perf_counter()
            self._due = max(self._due, now - MOST_ON_CPU * self._seconds) + self._seconds
            time.sleep(max(0.0, self._due - now))
            self._queue.append(result(row.index))
            yield self


def paced_worker(rows_per_s: float) -> type[RayWorker]:
    """A worker of this speed. Made here, so that Ray sends the class with its speed along."""

    class PacedWorker(RayWorker):
        def load(self, setup: Setup) -> Ready | LoadFailure:
            self._batch_size = MOST_ON_CPU
            threading.Thread(target=self._queue.work, args=(Pace(self._queue, rows_per_s),), daemon=True).start()
            return Ready(self._batch_size, "none")

    return PacedWorker


def measure(workers: int, rows_per_s: float) -> dict[str, Any]:
    """What the driver gets through, as printed. Raises RuntimeError if the workers do not all start."""
    # More than can be done meanwhile, the time until all workers are there included.
    most = int(workers * rows_per_s * (_SECONDS + 60 + 5 * workers))
    rows = (Row(index, f"row-{index}", _PROMPT, sampling=SamplingConfig()) for index in range(most))
    setup = Setup(ModelSpec(), "none", {}, "", MOST_ON_CPU, 1)
    with (
        connect(RayOptions(workers=workers)),
        tempfile.TemporaryDirectory() as folder,
        Journal.open(Path(folder) / "journal", HEADER, most) as journal,
    ):
        from openllama_cli.batch.ray.engine import RayRunner

        plan = WorkerPlan(workers, 1, 0, 0, workers)
        runner = RayRunner(setup, plan, most, Results(journal).append, worker=paced_worker(rows_per_s))
        with contextlib.closing(runner):
            began = 0.0
            for progress in runner.run(rows):
                now = time.perf_counter()
                if not began and runner.loaded_workers == workers:
                    began, processor, before = now, time.process_time(), progress.rows
                if began and now - began >= _SECONDS:
                    seconds, done = now - began, progress.rows - before
                    spent = time.process_time() - processor
                    return {
                        "workers": workers,
                        "rows_per_s_of_a_worker": rows_per_s,
                        "rows_per_s": round(done / seconds),
                        "of_possible": round(done / seconds / (workers * rows_per_s), 3),
                        "driver_cpu_us_per_row": round(spent / done * 1e6, 1),
                        "driver_cpu_share": round(spent / seconds, 2),
                    }
    raise RuntimeError("the workers did not all start")


def main() -> None:
    """Run the benchmark of the command line, and print its line."""
    given = sys.argv[1:3]
    workers = int(given[0]) if given else WORKERS
    print(json.dumps(measure(workers, float(given[1]) if len(given) > 1 else ROWS_PER_S)))


if __name__ == "__main__":
    main()
