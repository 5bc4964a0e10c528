"""What the Ray engine costs beside the model: python -m openllama_cli.benchmark.ray [--workers N] [--rows N] [--pace N]

Starts a cluster of its own on this machine and prints one line of JSON; seconds are wall clock.

Without --pace, --rows rows (20,000) go through --workers workers (1) that answer at once: into memory and into a journal in the
temporary folder, 32 rows a reply as busy workers give them, then 2 rows a reply, the worst case. What is left is the driver:
calling actors, keeping results. Then the demo model completes the same rows in a worker with one thread and in this process
with one thread, in turns, each timed from its first finished row on.

With --pace, how many workers one driver keeps busy: each finishes that many rows a second, one after the other, as at a batch
size of 16. They compute nothing and sleep between rows, so that many fit on few cores; all else is what it is in a batch. Ten
seconds are measured once all workers are there; `of_possible` is the share of what the workers could do.
"""

import argparse
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.results import Result, Results
from openllama_cli.batch.ray.cluster import connect
from openllama_cli.batch.ray.options import RayOptions, WorkerPlan
from openllama_cli.batch.ray.worker import LoadFailure, RayWorker, Ready, Reply, Setup, WorkQueue
from openllama_cli.benchmark.journal import HEADER, result
from openllama_cli.generation.batch_size import MOST_ON_CPU
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.find import demo_folder
from openllama_cli.models.spec import ModelSpec
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.system.files import file_fingerprint

# Of the demo model: rows, and how often each engine takes its turn.
_MODEL_ROWS = 400
_TURNS = 3
_PACED_SECONDS = 10.0


class InstantWorker(RayWorker):
    """Answers every row at once with a line of usual length."""

    def load(self, setup: Setup) -> Ready | LoadFailure:
        """Nothing is loaded."""
        return Ready(setup.batch_size or 1, "none")

    def exchange(self, rows: list[Row], last: bool = False) -> Reply:
        """All rows that came, done."""
        return Reply([result(row.index) for row in rows], len(rows), len(rows), idle=True)


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


def _forget(result: Result) -> None:
    """Keep nothing of a result."""


def _rows(count: int) -> Iterator[Row]:
    sampling = SamplingConfig()
    return (Row(index, f"row-{index}", "Q: What is the largest animal?\nA:", sampling=sampling) for index in range(count))


def _runner(
    rows: int, workers: int, keep: Callable[[Result], object], worker: type[RayWorker], batch_size: int = MOST_ON_CPU
) -> contextlib.closing[Any]:
    from openllama_cli.batch.ray.engine import RayRunner

    setup = Setup(ModelSpec(), "none", {}, "", batch_size, 1)
    return contextlib.closing(RayRunner(setup, WorkerPlan(workers, 1, 0, 0, workers), rows, keep, worker=worker))


def measure(rows: int, workers: int) -> dict[str, Any]:
    """Seconds and rows per second, as printed."""
    found: dict[str, Any] = {"rows": rows, "workers": workers}
    began = time.perf_counter()
    with connect(RayOptions(workers=workers)):
        found["cluster_start_s"] = round(time.perf_counter() - began, 2)
        found |= _throughput("driver", rows, workers, _forget)
        found |= _throughput("driver_2_rows_an_answer", rows // 10, workers, _forget, batch_size=1)
        with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "journal", HEADER, rows) as journal:
            found |= _throughput("driver_and_journal", rows, workers, Results(journal).append)
        found |= _against_local()
        began = time.perf_counter()
    return {**found, "cluster_stop_s": round(time.perf_counter() - began, 2)}


def _throughput(
    name: str, rows: int, workers: int, keep: Callable[[Result], object], batch_size: int = MOST_ON_CPU
) -> dict[str, Any]:
    began = time.perf_counter()
    with _runner(rows, workers, keep, InstantWorker, batch_size) as runner:
        first, seconds, processor = _timed(runner, _rows(rows), rows)
    return {
        f"{name}_first_row_s": round(first - began, 2),
        f"{name}_rows_per_s": round(1 / seconds),
        f"{name}_cpu_us_per_row": round(processor * 1e6, 1),
    }


def _against_local() -> dict[str, Any]:
    """Milliseconds a row of the demo model in a worker and in this process, in turns, and how long a worker takes to start."""
    import torch

    from openllama_cli.batch.ray.engine import RayRunner
    from openllama_cli.batch.ray.worker import open_and_load
    from openllama_cli.batch.runner import open_runner

    folder, sampling = demo_folder(), SamplingConfig(max_tokens=24)
    weights = {path.name: file_fingerprint(path) for path in folder.glob("*.safetensors")}
    spec = ModelSpec("demo", dtype="float32", device="cpu")
    sha256 = open_tokenizer(folder).sha256
    setup = Setup(spec, "demo", {"revision": None, "files": weights}, sha256, MOST_ON_CPU, 1)
    torch.set_num_threads(1)
    loaded = open_and_load(setup)
    rows = [Row(index, f"row-{index}", f"The capital of country {index} is", sampling=sampling) for index in range(_MODEL_ROWS)]
    found: dict[str, list[float]] = {"worker_first_row_s": [], "worker_ms_per_row": [], "local_ms_per_row": []}
    for _ in range(_TURNS):
        remote = RayRunner(setup, WorkerPlan(1, 1, 0, 0, 1), len(rows), _forget)
        began = time.perf_counter()
        with contextlib.closing(remote):
            first, seconds, _ = _timed(remote, rows, len(rows))
        found["worker_first_row_s"].append(round(first - began, 2))
        found["worker_ms_per_row"].append(round(seconds * 1e3, 2))
        local = open_runner(loaded, model="demo", keep=_forget, batch_size=MOST_ON_CPU, positions=1)
        found["local_ms_per_row"].append(round(_timed(local, rows, len(rows))[1] * 1e3, 2))
    return dict(found)


def _timed(runner: Any, rows: Iterable[Row], count: int) -> tuple[float, float, float]:
    """When the first row was finished; from then on the seconds a row, and those of this process's processor time."""
    first, processor, before = 0.0, 0.0, 0
    for progress in runner.run(rows):
        if progress.rows and not first:
            first, processor, before = time.perf_counter(), time.process_time(), progress.rows
    left = count - before
    return first, (time.perf_counter() - first) / left, (time.process_time() - processor) / left


def measure_paced(workers: int, rows_per_s: float) -> dict[str, Any]:
    """What the driver gets through, as printed. Raises RuntimeError if the workers do not all start."""
    # More than can be done meanwhile, the time until all workers are there included.
    most = int(workers * rows_per_s * (_PACED_SECONDS + 60 + 5 * workers))
    with (
        connect(RayOptions(workers=workers)),
        tempfile.TemporaryDirectory() as folder,
        Journal.open(Path(folder) / "journal", HEADER, most) as journal,
        _runner(most, workers, Results(journal).append, paced_worker(rows_per_s)) as runner,
    ):
        began, processor, before = 0.0, 0.0, 0
        for progress in runner.run(_rows(most)):
            now = time.perf_counter()
            if not began and runner.loaded_workers == workers:
                began, processor, before = now, time.process_time(), progress.rows
            if began and now - began >= _PACED_SECONDS:
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
    """Print the line of JSON that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.benchmark.ray", description="Time the driver of the Ray engine."
    )
    parser.add_argument("--rows", type=int, default=20_000, metavar="N")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument("--pace", type=float, metavar="ROWS_PER_S", help="rows a second of each worker")
    options = parser.parse_args()
    found = measure(options.rows, options.workers) if options.pace is None else measure_paced(options.workers, options.pace)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
