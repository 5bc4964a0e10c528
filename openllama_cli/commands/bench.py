"""`olc bench`: load time, time to first token, tokens a second and memory, each from a fresh process."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from openllama_cli import __version__
from openllama_cli.benchmark.runs import METRICS, Result, Spread, measure_bandwidth, run
from openllama_cli.benchmark.shapes import SHAPES, random_model
from openllama_cli.benchmark.worker import Job, prompt_lengths
from openllama_cli.commands.shared.options import model_options
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.errors import UsageError
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.find import find
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.progress import TerminalProgress
from openllama_cli.terminal.streams import notice, out, out_json
from openllama_cli.terminal.tables import figure, size, table
from openllama_cli.terminal.views.bench import bars_svg, show_bars

EXAMPLES = """\b
Examples:
  olc bench
  olc bench --shape 3b --against transformers --runs 3
  olc bench -m 3b-v2 --batch 1,8,16 --json
"""


@click.command(epilog=EXAMPLES)
@click.option("--shape", metavar="|".join(SHAPES), help="Random weights of this shape, written once to the cache.")
@click.option("--stored", metavar="float16|bfloat16", help="Type of --shape's weights. [default: float16]")
@click.option("--prompt-tokens", type=click.IntRange(1), default=64, show_default=True, metavar="N")
@click.option("--max-tokens", "-n", type=click.IntRange(2), default=64, show_default=True, metavar="N")
@click.option("--batch", default="1", show_default=True, metavar="N,N,…", help="Rows side by side; ragged if several.")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, metavar="N")
@click.option("--against", type=click.Choice(["transformers"]), help="Measure model.generate in turn, and the ratios.")
@click.option("--against-dtype", metavar="DTYPE", help="What the rival computes in. [default: bfloat16]")
@click.option("--busy", type=click.IntRange(0), default=0, metavar="N", help="Busy programs that run beside. [default: none]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document with every measurement.")
@click.option("--svg", metavar="FILE", help="Save the bars as a picture.")
@model_options
def command(
    shape: str | None,
    stored: str | None,
    prompt_tokens: int,
    max_tokens: int,
    batch: str,
    runs: int,
    against: str | None,
    against_dtype: Any,
    busy: int,
    as_json: bool,
    svg: str | None,
    spec: ModelSpec,
) -> None:
    """Measure a model on this machine.

    Every figure comes from a fresh process, as a command line is always a first run; rivals run in turn. Decode is compared
    with the memory's bandwidth, measured in the same run: each token has to read all weights once.
    """
    if shape is not None and spec.model is not None:
        raise UsageError("--model and --shape were both given", "give one of them")
    if stored is not None and shape is None:
        raise UsageError(f"--stored {stored} is for random weights", "give --shape too, or leave it out")
    if against_dtype is not None and against is None:
        raise UsageError(
            f"--against-dtype {against_dtype} is for the rival", "give --against transformers too, or leave it out"
        )
    stored, against_dtype = stored or "float16", against_dtype or "bfloat16"
    if stored not in ("float16", "bfloat16"):
        raise UsageError(f"--stored {stored} is not known", "use float16 or bfloat16")
    sizes = _sizes(batch)
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
        progress.start("measuring the memory's bandwidth", None)
        speed = measure_bandwidth(spec.device)
        progress.start_steps("measuring", runs * len(jobs))
        results = run(jobs, runs, busy=busy, begin=lambda name, done: progress.step(f"measuring {name}", done))
    finally:
        progress.finish()
    bars = charts(results)
    if as_json:
        out_json(document(name, prompt_tokens, max_tokens, busy, speed, results))
    else:
        show(name, prompt_tokens, max_tokens, results, speed)
        for title, values in bars:
            show_bars(title, values)
    if svg is not None:
        save(Path(svg), bars_svg(bars, title="olc bench"))


def _sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= 256 for part in parts):
        raise UsageError(f"--batch {text} is no list of numbers from 1 to 256", "give some, such as --batch 1,8,16")
    return list(dict.fromkeys(int(part) for part in parts))


def _check_context(context: int, jobs: Sequence[Job]) -> None:
    """Raise UsageError for rows that are longer than the model's context."""
    longest = max(max(prompt_lengths(job)) + job.max_tokens for job in jobs)
    if longest > context:
        raise UsageError(
            f"the longest row would have {longest} tokens, and the model has a context of {context}",
            "give a smaller --prompt-tokens or --max-tokens (of several rows one has one and a half times --prompt-tokens)",
        )


def _jobs(
    folder: Path, name: str, spec: ModelSpec, sizes: Sequence[int], prompt_tokens: int, max_tokens: int, rival: str | None
) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    quantize = spec.quantize
    for rows in sizes:
        suffix = "" if rows == 1 else f", {rows} rows"
        ours = Job(str(folder), "loop", spec.dtype, spec.device, prompt_tokens, max_tokens, rows, quantize, name)
        jobs[f"olc{f' {quantize}' if quantize else ''}{suffix}"] = ours
        if rival is not None:
            theirs = Job(str(folder), "transformers", rival, spec.device, prompt_tokens, max_tokens, rows)
            jobs[f"{RIVAL}{suffix}"] = theirs
    return jobs


RIVAL = "model.generate"


def _rival_of(result: Result, results: Sequence[Result]) -> Result | None:
    rivals = (other for other in results if other.job.engine == "transformers" and other.job.rows == result.job.rows)
    return next(rivals, None) if result.job.engine == "loop" else None


def show(model: str, prompt_tokens: int, max_tokens: int, results: Sequence[Result], speed: float) -> None:
    """Tables of the medians with the least and the most, and of the ratios. speed: of memory, GB/s."""
    rows = []
    for result in results:
        decode = result.spread("decode_tokens_per_s")
        share = "" if decode is None or result.job.rows > 1 else f"{_share(result, speed):.0%}"
        memory = result.spread("peak_memory_bytes")
        rows.append(
            [
                result.name,
                _spread(result.spread("process_s")),
                _spread(result.spread("load_s")),
                _spread(result.spread("time_to_first_token_s")),
                _spread(result.spread("prefill_tokens_per_s")),
                _spread(decode),
                _spread(result.spread("tokens_per_s")),
                size(memory.middle) if memory else "",
                share,
            ]
        )
    columns = ["", "process s", "load s", "first token s", "prefill/s", "decode/s", "tokens/s", "memory", "of bandwidth"]
    table(columns, rows, right=columns[1:], optional=["process s", "load s", "first token s", "memory"])
    ratios = []
    for result in results:
        rival = _rival_of(result, results)
        if rival is None:
            continue
        metrics = ("prefill_tokens_per_s", "decode_tokens_per_s", "tokens_per_s", "load_s", "process_s")
        ratios.append([result.name, *(_spread(result.ratio(rival, metric)) for metric in metrics)])
    if ratios:
        out("\n")
        columns = [f"times {RIVAL}", "prefill", "decode", "all tokens", "load s", "process s"]
        table(columns, ratios, right=columns[1:], optional=["load s", "process s"])
    what = f"{model} in {results[0].precision}, prompts of {prompt_tokens} tokens and {max_tokens} more"
    notice(f"olc: {what}; median (least to most), every figure from fresh processes; memory bandwidth {speed:.1f} GB/s")
    notice("olc: first token: of the first row; prefill: until every row has its first token")


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.least == spread.most:
        return figure(spread.middle)
    return f"{figure(spread.middle)} ({figure(spread.least)} to {figure(spread.most)})"


def _share(result: Result, speed: float) -> float:
    """What part of the bandwidth decode uses, if reading the weights were all it did."""
    decode = result.spread("decode_tokens_per_s")
    return 0.0 if decode is None else decode.middle * result.weight_bytes_per_token / (speed * 1e9)


def charts(results: Sequence[Result]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Titles, each with the names and medians of its bars."""
    found = []
    for metric, title in (("prefill_tokens_per_s", "prefill, tokens/s"), ("decode_tokens_per_s", "decode, tokens/s")):
        values = [(result.name, spread.middle) for result in results if (spread := result.spread(metric))]
        found.append((title, values))
    return found


def document(
    model: str, prompt_tokens: int, max_tokens: int, busy: int, speed: float, results: Sequence[Result]
) -> dict[str, Any]:
    """All measurements, and what they were taken of and on. busy: programs that ran beside. speed: of memory, GB/s."""
    return {
        "model": model,
        "prompt_tokens": prompt_tokens,
        "max_tokens": max_tokens,
        "busy": busy,
        "bandwidth_gb_per_s": speed,
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
                "share_of_bandwidth": _share(result, speed) if result.job.rows == 1 else None,
                "ratios": _ratios(result, results),
            }
            for result in results
        ],
    }


def _ratios(result: Result, results: Sequence[Result]) -> dict[str, dict[str, float]] | None:
    """Against the rival, run by run: {metric: {"min", "median", "max"}}."""
    rival = _rival_of(result, results)
    if rival is None:
        return None
    spreads = {metric: result.ratio(rival, metric) for metric in METRICS}
    return {
        metric: {"min": spread.least, "median": spread.middle, "max": spread.most}
        for metric, spread in spreads.items()
        if spread
    }
