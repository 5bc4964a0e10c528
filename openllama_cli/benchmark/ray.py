"""What the Ray engine costs beside the model: python -m openllama_cli.benchmark.ray [ROWS] [WORKERS]

Starts a cluster of its own on this machine, and runs ROWS rows (20,000) through WORKERS workers (1) that answer at once: into
memory and into a journal in the temporary folder, 32 rows a reply as busy workers give them, then 2 rows a reply, the worst
case. What is left is the driver: calling actors, keeping results. Then the demo model completes the same rows in a worker with
one thread and in this process with one thread, in turns, each timed from its first finished row on. Prints one line of JSON;
seconds are wall clock.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.results import Result, Results
from openllama_cli.batch.ray.cluster import connect
from openllama_cli.batch.ray.options import RayOptions, WorkerPlan
from openllama_cli.batch.ray.worker import LoadFailure, RayWorker, Ready, Reply, Setup
from openllama_cli.benchmark.journal import HEADER, result
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.find import demo_folder
from openllama_cli.models.spec import ModelSpec
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.system.files import file_fingerprint

ROWS = 20_000
# A worker's, on a CPU.
_BATCH_SIZE = 16
# Of the demo model: rows, and how often each engine takes its turn.
_MODEL_ROWS = 400
_TURNS = 3


class InstantWorker(RayWorker):
    """Answers every row at once with a line of usual length."""

    def load(self, setup: Setup) -> Ready | LoadFailure:
        """Nothing is loaded."""
        return Ready(setup.batch_size or 1, "none")

    def exchange(self, rows: list[Row], last: bool = False) -> Reply:
        """All rows that came, done."""
        return Reply([result(row.index) for row in rows], len(rows), len(rows), idle=True)


def _forget(result: Result) -> None:
    """Keep nothing of a result."""


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
    name: str, rows: int, workers: int, keep: Callable[[Result], object], batch_size: int = _BATCH_SIZE
) -> dict[str, Any]:
    from openllama_cli.batch.ray.engine import RayRunner

    sampling = SamplingConfig()
    prompt = "Q: What is the largest animal?\nA:"
    source: Iterator[Row] = (Row(index, f"row-{index}", prompt, sampling=sampling) for index in range(rows))
    setup = Setup(ModelSpec(), "none", {}, "", batch_size, 1)
    runner = RayRunner(setup, WorkerPlan(workers, 1, 0, 0, workers), rows, keep, worker=InstantWorker)
    began, first, processor = time.perf_counter(), 0.0, 0.0
    with contextlib.closing(runner):
        for progress in runner.run(source):
            if progress.rows and not first:
                first, processor, before = time.perf_counter(), time.process_time(), progress.rows
    seconds = time.perf_counter() - first
    return {
        f"{name}_first_row_s": round(first - began, 2),
        f"{name}_rows_per_s": round((rows - before) / seconds),
        f"{name}_cpu_us_per_row": round((time.process_time() - processor) / (rows - before) * 1e6, 1),
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
    setup = Setup(spec, "demo", {"revision": None, "files": weights}, sha256, _BATCH_SIZE, 1)
    torch.set_num_threads(1)
    loaded = open_and_load(setup)
    rows = [Row(index, f"row-{index}", f"The capital of country {index} is", sampling=sampling) for index in range(_MODEL_ROWS)]
    found: dict[str, list[float]] = {"worker_first_row_s": [], "worker_ms_per_row": [], "local_ms_per_row": []}
    for _ in range(_TURNS):
        remote = RayRunner(setup, WorkerPlan(1, 1, 0, 0, 1), len(rows), _forget)
        began = time.perf_counter()
        with contextlib.closing(remote):
            first, seconds = _timed(remote, rows)
        found["worker_first_row_s"].append(round(first - began, 2))
        found["worker_ms_per_row"].append(round(seconds * 1e3, 2))
        local = open_runner(loaded, model="demo", keep=_forget, batch_size=_BATCH_SIZE, positions=1)
        found["local_ms_per_row"].append(round(_timed(local, rows)[1] * 1e3, 2))
    return dict(found)


def _timed(runner: Any, rows: list[Row]) -> tuple[float, float]:
    """When the first row was finished, and the seconds a row from then on."""
    first, before = 0.0, 0
    for progress in runner.run(rows):
        if progress.rows and not first:
            first, before = time.perf_counter(), progress.rows
    return first, (time.perf_counter() - first) / (len(rows) - before)


def main() -> None:
    """Run the benchmark of the command line, and print its line."""
    given = [int(text) for text in sys.argv[1:3]]
    print(json.dumps(measure(*given, *(ROWS, 1)[len(given) :])))


if __name__ == "__main__":
    main()
