"""What was measured, compared: ratios to the baselines, shares of the memory bandwidth, how much was disturbed, as JSON."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openllama_cli.benchmark.disturbance import Disturbance
from openllama_cli.benchmark.runs import METRICS, Result, Spread
from openllama_cli.version import __version__

# Engine → how people know it.
BASELINES = {"transformers": "model.generate", "llama.cpp": "llama.cpp"}
# More than these is worth a line: load average, cores taken by others, the fastest run in relation to the slowest.
_BUSY_LOAD, _BUSY_CORES, _BUSY_SPREAD = 0.5, 0.2, 1.25
_SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s")


@dataclass(frozen=True)
class Report:
    """All measurements, and what they were taken of and on.

    prompt_tokens: the lengths that were measured. busy: olc's own processes alongside. bandwidth: of memory, GB/s.
    """

    model: str
    prompt_tokens: Sequence[int]
    max_tokens: int
    busy: int
    bandwidth: float
    disturbance: Disturbance
    results: Sequence[Result]

    def baseline(self, result: Result, engine: str) -> Result | None:
        """What olc's result is compared with: the engine's on the same prompts, if it was measured."""
        mine = (result.job.rows, result.job.prompt_tokens)
        others = (other for other in self.results if other.job.engine == engine)
        found = (other for other in others if (other.job.rows, other.job.prompt_tokens) == mine)
        return next(found, None) if result.job.engine == "loop" else None

    def share_of_bandwidth(self, result: Result) -> float | None:
        """What decode uses if reading the weights is all it does; None above batch size 1."""
        if result.job.rows > 1:
            return None
        decode = result.spread("decode_tokens_per_s")
        return decode.middle * result.weight_bytes_per_token / (self.bandwidth * 1e9) if decode else 0.0

    def run_spread(self) -> tuple[str, float]:
        """The name of the result whose speeds differ most from run to run, and the fastest run in relation to the slowest."""
        spreads = ((result.name, result.spread(metric)) for result in self.results for metric in _SPEEDS)
        return max(((name, each.most / each.least) for name, each in spreads if each), key=lambda pair: pair[1])

    def busy_line(self) -> str | None:
        """For people, if other work on the machine may have changed the figures."""
        load, cores = self.disturbance.load_average, self.disturbance.cores
        name, spread = self.run_spread()
        if (load or 0.0) <= _BUSY_LOAD and cores <= _BUSY_CORES and spread <= _BUSY_SPREAD:
            return None
        before = "" if load is None else f"load average {load:.1f} at the start, "
        return (
            f"the machine was busy, so measure again when it is quiet: {before}{cores:.1f} of {os.cpu_count()} cores taken by "
            f"other processes meanwhile, up to {spread:.1f} times between the runs of {name}"
        )

    def document(self) -> dict[str, Any]:
        """For --json; docs/performance.md says what the fields are."""
        return {
            "model": self.model,
            "prompt_tokens": self.prompt_tokens[0] if len(self.prompt_tokens) == 1 else None,
            "max_tokens": self.max_tokens,
            "busy": self.busy,
            "bandwidth_gb_per_s": self.bandwidth,
            "load_average": self.disturbance.load_average,
            "cores_taken_by_others": self.disturbance.cores,
            "run_spread": self.run_spread()[1],
            "was_busy": self.busy_line() is not None,
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
            "olc": __version__,
            "results": [
                {
                    "name": result.name,
                    "engine": result.job.engine,
                    "dtype": result.job.dtype,
                    "precision": result.precision,
                    "quantize": result.job.quantize,
                    "prompt_tokens": result.job.prompt_tokens,
                    "rows": result.job.rows,
                    **result.metrics,
                    "share_of_bandwidth": self.share_of_bandwidth(result),
                    "ratios": self._ratios(result, "transformers"),
                    "ratios_to_llama_cpp": self._ratios(result, "llama.cpp"),
                }
                for result in self.results
            ],
        }

    def _ratios(self, result: Result, engine: str) -> dict[str, dict[str, float]] | None:
        """To the baseline, run by run: {metric: {"min", "median", "max"}}."""
        baseline = self.baseline(result, engine)
        if baseline is None:
            return None
        spreads: dict[str, Spread | None] = {metric: result.ratio(baseline, metric) for metric in METRICS}
        return {name: {"min": each.least, "median": each.middle, "max": each.most} for name, each in spreads.items() if each}
