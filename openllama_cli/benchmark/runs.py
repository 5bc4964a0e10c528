"""Jobs measured in turn (A B A B), each in a fresh process: medians, ranges and paired ratios."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from openllama_cli.benchmark.job import Job
from openllama_cli.errors import OlcError

_WORKER = (sys.executable, "-m", "openllama_cli.benchmark.worker")
# As the worker prints them, and process_s: from the start of its process to its end.
METRICS = (
    "process_s",
    "load_s",
    "time_to_first_token_s",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "tokens_per_s",
    "peak_memory_bytes",
)


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of several measurements."""

    least: float
    middle: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one measurement or more."""
        return cls(min(values), median(values), max(values))


@dataclass(frozen=True)
class Result:
    """One job's measurements.

    metrics: name → one value per run, None if there was nothing to measure. precision: the dtypes that were computed with.
    """

    name: str
    job: Job
    metrics: dict[str, list[float | None]]
    weight_bytes_per_token: int
    precision: str

    def spread(self, metric: str) -> Spread | None:
        """Of a metric over the runs."""
        values = [value for value in self.metrics[metric] if value is not None]
        return Spread.of(values) if values else None

    def ratio(self, other: "Result", metric: str) -> Spread | None:
        """This result's metric divided by the other's, run by run: what disturbs the machine disturbs both of a pair."""
        pairs = zip(self.metrics[metric], other.metrics[metric], strict=True)
        values = [mine / theirs for mine, theirs in pairs if mine and theirs]
        return Spread.of(values) if values else None


# A busy program that ends by itself when its parent is gone.
_BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


def run(jobs: dict[str, Job], runs: int, *, busy: int = 0, begin: Callable[[str, int], None]) -> list[Result]:
    """Measure all jobs `runs` times, in turn.

    busy: number of other programs that occupy a core each meanwhile. begin: called with the name of the job that is measured
    next and the number of measurements done. Quantized copies are made before anything is measured.

    Raises OlcError if a job fails.
    """
    copies = {(job.folder, job.device, job.dtype, job.quantize): name for name, job in jobs.items() if job.quantize}
    for name in copies.values():
        begin(f"{name}: quantized weights", 0)
        _measure({**asdict(jobs[name]), "only_load": True}, name)
    collected: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    with _busy_programs(busy):
        for turn in range(runs):
            for place, (name, job) in enumerate(jobs.items()):
                begin(name, turn * len(jobs) + place)
                collected[name].append(_measure(asdict(job), name))
    return [
        Result(
            name,
            job,
            {metric: [sample[metric] for sample in collected[name]] for metric in METRICS},
            collected[name][0]["weight_bytes_per_token"],
            collected[name][0]["precision"],
        )
        for name, job in jobs.items()
    ]


def measure_bandwidth(device: str) -> float:
    """GB/s of the device's memory, in a process of its own."""
    return float(_measure({"bandwidth_of": device}, "bandwidth")["bandwidth_gb_per_s"])


@contextlib.contextmanager
def _busy_programs(count: int) -> Iterator[None]:
    # In a session of their own, since Ctrl-C in the terminal would make each of them print a traceback.
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    programs = [subprocess.Popen([sys.executable, "-c", _BUSY], **quiet) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
        for program in programs:
            program.wait()


def _measure(request: dict[str, Any], name: str) -> dict[str, Any]:
    """What the worker answers. Raises OlcError if it fails."""
    started = time.perf_counter()
    process = subprocess.run([*_WORKER, json.dumps(request)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        last = process.stderr.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise OlcError(f"measuring {name} failed: {last[0]}", "run `olc complete --debug` with the same model for details")
    answer: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    if "error" in answer:
        raise OlcError(f"measuring {name} failed: {answer['error'][0]}", answer["error"][1])
    return {**answer, "process_s": seconds}
