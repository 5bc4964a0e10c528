"""`olc bench`: load time, time to first token, tokens per second and memory, each measured in a fresh process."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from openllama_cli.benchmark.runs import METRICS, Result, Spread, measure_bandwidth, run
from openllama_cli.benchmark.shapes import SHAPES, random_model
from openllama_cli.benchmark.worker import Job, prompt_lengths
from openllama_cli.commands.shared.options import model_options, number_option
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.errors import UsageError
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.find import find
from openllama_cli.models.spec import ModelSpec
from openllama_cli.system.memory import size
from openllama_cli.terminal.figures import figure
from openllama_cli.terminal.progress import TerminalProgress
from openllama_cli.terminal.streams import note, out, out_json
from openllama_cli.terminal.tables import table
from openllama_cli.terminal.views.bench import bars_svg, show_bars
from openllama_cli.version import __version__

BASELINE = "model.generate"

EXAMPLES = """\b
Examples:
  olc bench
  olc bench --shape 3b --against transformers --runs 3
  olc bench -m 3b-v2 --batch-size 1,8,16 --json
"""


@click.command(epilog=EXAMPLES)
@click.option("--shape", metavar="|".join(SHAPES), help="Random weights of this shape, written to the cache once.")
@click.option("--stored", metavar="float16|bfloat16", show_default="float16", help="Storage type of --shape's weights.")
@number_option("--prompt-tokens", default=64, help="Tokens per prompt.")
@number_option("-n", "--max-tokens", least=2, default=64, help="Tokens to generate per row.")
@click.option(
    "--batch-size",
    "--batch",
    default="1",
    show_default=True,
    metavar="N,N,…",
    help="Batch sizes to measure; above 1, prompts differ in length.",
)
@number_option("--runs", default=3, help="Measurements of each kind, each in a fresh process.")
@click.option("--against", type=click.Choice(["transformers"]), help="Also measure model.generate as the baseline, in turn.")
@click.option("--against-dtype", metavar="DTYPE", show_default="bfloat16", help="Precision of the baseline.")
@number_option("--busy", least=0, default=0, help="Busy processes to run alongside.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every measurement.")
@click.option("--svg", metavar="FILE", help="Save the bars as a picture.")
@model_options
def command(
    shape: str | None,
    stored: str | None,
    prompt_tokens: int,
    max_tokens: int,
    batch_size: str,
    runs: int,
    against: str | None,
    against_dtype: Any,
    busy: int,
    as_json: bool,
    svg: str | None,
    spec: ModelSpec,
) -> None:
    """Measure the speed and memory of a model on this machine.

    Every figure comes from a fresh process, since a command line always starts cold; olc and the baseline take turns. Decode
    speed is compared with the memory bandwidth, measured in the same run: each token has to read all weights once.
    """
    if shape is not None and spec.model is not None:
        raise UsageError("--model and --shape were both given", "give one of them")
    if stored is not None and shape is None:
        raise UsageError(f"--stored {stored} is for random weights", "add --shape, or leave it out")
    if against_dtype is not None and against is None:
        raise UsageError(f"--against-dtype {against_dtype} is for the baseline", "add --against transformers, or leave it out")
    stored, against_dtype = stored or "float16", against_dtype or "bfloat16"
    if stored not in ("float16", "bfloat16"):
        raise UsageError(f"--stored {stored} is not known", "use float16 or bfloat16")
    sizes = _sizes(batch_size)
    ModelSpec(dtype=against_dtype)
    if svg is not None:
        writable(svg)
    progress = TerminalProgress()
    try:
        found = None if shape is not None else find(spec, progress=progress)
        folder = found.path if found is not None else random_model(shape or "", stored, progress)
        name = found.name if found is not None else str(shape)
        jobs = _jobs(folder, name, spec, sizes, prompt_tokens, max_tokens, against_dtype if against else None)
        _check_context(inspect(folder).shape.context, list(jobs.values()))
        progress.start("measuring the memory bandwidth", None)
        bandwidth = measure_bandwidth(spec.device)
        progress.start_steps("measuring", runs * len(jobs))
        results = run(jobs, runs, busy=busy, begin=lambda name, done: progress.step(f"measuring {name}", done))
    finally:
        progress.finish()
    report = _Report(name, prompt_tokens, max_tokens, busy, bandwidth, results)
    if as_json:
        out_json(report.document())
    else:
        report.show()
    if svg is not None:
        save(Path(svg), bars_svg(report.bars(), title="olc bench"))


def _sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= 256 for part in parts):
        cause = f"--batch-size {text} is not a list of numbers from 1 to 256"
        raise UsageError(cause, "give one or more, such as --batch-size 1,8,16")
    return list(dict.fromkeys(int(part) for part in parts))


def _check_context(context: int, jobs: Sequence[Job]) -> None:
    """Raise UsageError if rows would be longer than the model's context."""
    longest = max(max(prompt_lengths(job)) + job.max_tokens for job in jobs)
    if longest > context:
        raise UsageError(
            f"the longest row would have {longest} tokens, but the model has a context of {context}",
            "lower --prompt-tokens or --max-tokens (in a batch, prompts have up to one and a half times --prompt-tokens)",
        )


def _jobs(
    folder: Path, name: str, spec: ModelSpec, sizes: Sequence[int], prompt_tokens: int, max_tokens: int, baseline: Any
) -> dict[str, Job]:
    """The measurements by name. baseline: the precision of `model.generate`; None does not measure it."""
    jobs: dict[str, Job] = {}
    olc = f"olc {spec.quantize}" if spec.quantize else "olc"
    for rows in sizes:
        suffix = "" if rows == 1 else f", {rows} rows"
        lengths = (prompt_tokens, max_tokens, rows)
        jobs[olc + suffix] = Job(str(folder), "loop", spec.dtype, spec.device, *lengths, spec.quantize, name)
        if baseline is not None:
            jobs[BASELINE + suffix] = Job(str(folder), "transformers", baseline, spec.device, *lengths)
    return jobs


@dataclass(frozen=True)
class _Report:
    """All measurements, and what they were taken of and on. busy: processes alongside. bandwidth: of memory, GB/s."""

    model: str
    prompt_tokens: int
    max_tokens: int
    busy: int
    bandwidth: float
    results: Sequence[Result]

    def show(self) -> None:
        """Tables of the medians, ranges and ratios; on a terminal also bars."""
        times = ("process_s", "load_s", "time_to_first_token_s")
        speeds = ("prefill_tokens_per_s", "decode_tokens_per_s", "tokens_per_s")
        rows = []
        for result in self.results:
            share, memory = self._share(result), result.spread("peak_memory_bytes")
            figures = [_spread(result.spread(metric)) for metric in (*times, *speeds)]
            measured = share is not None and result.spread("decode_tokens_per_s") is not None
            rows.append([result.name, *figures, size(memory.middle) if memory else "", f"{share:.0%}" if measured else ""])
        columns = ["", "process s", "load s", "first token s", "prefill/s", "decode/s", "tokens/s", "memory", "of bandwidth"]
        table(columns, rows, right=columns[1:], optional=["process s", "load s", "first token s", "memory"])
        compared = (*speeds, "load_s", "process_s")
        ratios = [
            [result.name, *(_spread(result.ratio(baseline, metric)) for metric in compared)]
            for result in self.results
            if (baseline := self._baseline(result)) is not None
        ]
        if ratios:
            out("\n")
            columns = [f"times {BASELINE}", "prefill", "decode", "all tokens", "load s", "process s"]
            table(columns, ratios, right=columns[1:], optional=["load s", "process s"])
        note(
            f"{self.model} in {self.results[0].precision}, prompts of {self.prompt_tokens} tokens, {self.max_tokens} generated"
            f"; median (range), every figure from fresh processes; memory bandwidth {self.bandwidth:.1f} GB/s"
        )
        note("first token: of the first row; prefill: until every row has its first token")
        for title, values in self.bars():
            show_bars(title, values)

    def bars(self) -> list[tuple[str, list[tuple[str, float]]]]:
        """Titles, each with the names and medians of its bars."""
        titles = {"prefill_tokens_per_s": "prefill, tokens/s", "decode_tokens_per_s": "decode, tokens/s"}
        return [
            (title, [(result.name, spread.middle) for result in self.results if (spread := result.spread(metric))])
            for metric, title in titles.items()
        ]

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "max_tokens": self.max_tokens,
            "busy": self.busy,
            "bandwidth_gb_per_s": self.bandwidth,
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
            "olc": __version__,
            "results": [
                {
                    "name": result.name,
                    "engine": result.job.engine,
                    "dtype": result.job.dtype,
                    "precision": result.precision,
                    "quantize": result.job.quantize,
                    "rows": result.job.rows,
                    **result.metrics,
                    "share_of_bandwidth": self._share(result),
                    "ratios": self._ratios(result),
                }
                for result in self.results
            ],
        }

    def _baseline(self, result: Result) -> Result | None:
        """What olc's result is compared with: `model.generate` at the same batch size, if it was measured."""
        others = (other for other in self.results if other.job.engine == "transformers" and other.job.rows == result.job.rows)
        return next(others, None) if result.job.engine == "loop" else None

    def _ratios(self, result: Result) -> dict[str, dict[str, float]] | None:
        """Against the baseline, run by run: {metric: {"min", "median", "max"}}."""
        baseline = self._baseline(result)
        if baseline is None:
            return None
        spreads = {metric: result.ratio(baseline, metric) for metric in METRICS}
        return {name: {"min": each.least, "median": each.middle, "max": each.most} for name, each in spreads.items() if each}

    def _share(self, result: Result) -> float | None:
        """The share of the bandwidth that decode uses if reading the weights is all it does; None above batch size 1."""
        if result.job.rows > 1:
            return None
        decode = result.spread("decode_tokens_per_s")
        return decode.middle * result.weight_bytes_per_token / (self.bandwidth * 1e9) if decode else 0.0


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.least == spread.most:
        return figure(spread.middle)
    return f"{figure(spread.middle)} ({figure(spread.least)} to {figure(spread.most)})"
