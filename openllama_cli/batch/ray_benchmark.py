"""What the Ray engine costs beside the model: python -m openllama_cli.batch.ray_benchmark [ROWS] [WORKERS]

Starts a cluster of its own on this machine, and runs ROWS rows (20,000) through WORKERS workers (1) that answer at once: into
memory and into a journal in the temporary folder, 32 rows an answer as busy workers give them, then 2 rows an answer, the worst
case. What is left is the driver: calling actors, keeping results. Then loads the demo model in a worker, twice. Prints one line
of JSON; seconds are wall clock.
"""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openllama_cli.batch.fingerprint import file_fingerprint
from openllama_cli.batch.journal import Journal
from openllama_cli.batch.journal_benchmark import HEADER, row
from openllama_cli.batch.ray_cluster import connect
from openllama_cli.batch.ray_options import RayOptions, WorkerPlan
from openllama_cli.batch.ray_worker import Answer, RayWorker, Ready, Refusal, Setup
from openllama_cli.batch.rows import Row
from openllama_cli.generation.config import SamplingConfig
from openllama_cli.models.find import demo_folder
from openllama_cli.models.spec import ModelSpec
from openllama_cli.models.tokenizer import open_tokenizer

ROWS = 20_000
# Rows that a worker on a CPU runs side by side.
_SIDE_BY_SIDE = 16


class InstantWorker(RayWorker):
    """Answers every row at once with a line of usual length."""

    def load(self, setup: Setup) -> Ready | Refusal:
        """Nothing is loaded."""
        return Ready(setup.batch_size or 1, "none")

    def exchange(self, rows: list[Row], last: bool = False) -> Answer:
        """All rows that came, done."""
        return Answer([(item.index, None, row(item.index)) for item in rows], len(rows), len(rows), idle=True)


class _Memory:
    def append(self, index: int, code: str | None, line: bytes) -> None:
        """Forget a row."""


def measure(rows: int, workers: int) -> dict[str, Any]:
    """Seconds and rows per second, as printed."""
    found: dict[str, Any] = {"rows": rows, "workers": workers}
    began = time.perf_counter()
    with connect(RayOptions(workers=workers)):
        found["cluster_start_s"] = round(time.perf_counter() - began, 2)
        found |= _throughput("driver", rows, workers, _Memory())
        found |= _throughput("driver_2_rows_an_answer", rows // 10, workers, _Memory(), side_by_side=1)
        with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "journal", HEADER, rows) as journal:
            found |= _throughput("driver_and_journal", rows, workers, journal)
        found["load_demo_s"] = [_load_seconds() for _ in range(2)]
        began = time.perf_counter()
    return {**found, "cluster_stop_s": round(time.perf_counter() - began, 2)}


def _throughput(name: str, rows: int, workers: int, results: Any, side_by_side: int = _SIDE_BY_SIDE) -> dict[str, Any]:
    from openllama_cli.batch.ray_engine import RayRunner

    sampling = SamplingConfig()
    prompt = "Q: What is the largest animal?\nA:"
    source: Iterator[Row] = (Row(index, f"row-{index}", prompt, sampling=sampling) for index in range(rows))
    setup = Setup(ModelSpec(), "none", {}, "", side_by_side, 1)
    runner = RayRunner(setup, WorkerPlan(workers, 1, 0, 0, workers), rows, results, worker=InstantWorker)
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


def _load_seconds() -> float:
    """A worker with the demo model: process, torch, weights, until it is ready for rows."""
    import ray

    folder = demo_folder()
    names = sorted(folder.glob("*.safetensors"))
    fingerprint = {"revision": None, "files": {path.name: file_fingerprint(path) for path in names}}
    setup = Setup(ModelSpec("demo", dtype="float32", device="cpu"), "demo", fingerprint, open_tokenizer(folder).sha256, None, 1)
    began = time.perf_counter()
    actor: Any = ray.remote(RayWorker).options(num_cpus=1).remote()
    answer = ray.get(actor.load.remote(setup))
    assert isinstance(answer, Ready), answer
    seconds = time.perf_counter() - began
    ray.kill(actor)
    return round(seconds, 2)


def main() -> None:
    """Run the benchmark of the command line, and print its line."""
    given = [int(text) for text in sys.argv[1:3]]
    print(json.dumps(measure(*given, *(ROWS, 1)[len(given) :])))


if __name__ == "__main__":
    main()
