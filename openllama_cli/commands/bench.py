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
from openllama_cli.benchmark.worker import Job
from openllama_cli.commands.options import model_options
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.models.find import find
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.bench_view import bars_svg, show_bars
from openllama_cli.terminal.progress import TerminalProgress
from openllama_cli.terminal.streams import notice, out_json
from openllama_cli.terminal.tables import size, table

EXAMPLES = """\b
Examples:
  olc bench
  olc bench --shape 3b --against transformers --runs 3
  olc bench -m 3b-v2 --batch 1,8,16 --json
"""

_RIVAL = "model.generate"


@click.command(epilog=EXAMPLES)
@click.option("--shape", metavar="|".join(SHAPES), help="Random weights of this shape, written once to the cache.")
@click.option("--stored", default="float16", show_default=True, metavar="float16|bfloat16", help="Type of --shape's weights.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=64, show_default=True, metavar="N")
@click.option("--max-tokens", "-n", type=click.IntRange(2), default=64, show_default=True, metavar="N")
@click.option("--batch", default="1", show_default=True, metavar="N,N,…", help="Rows side by side; ragged if several.")
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, metavar="N")
@click.option("--against", type=click.Choice(["transformers"]), help="Measure model.generate in turn, and the ratios.")
@click.option("--against-dtype", default="bfloat16", show_default=True, metavar="DTYPE", help="What the rival computes in.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document with every measurement.")
@click.option("--svg", metavar="FILE", help="Save the bars as a picture.")
@model_options
def command(
    shape: str | None,
    stored: str,
    prompt_tokens: int,
    max_tokens: int,
    batch: str,
    runs: int,
    against: str | None,
    against_dtype: Any,
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
    if stored not in ("float16", "bfloat16"):
        raise UsageError(f"--stored {stored} is not known", "use float16 or bfloat16")
    sizes = _sizes(batch)
    ModelSpec(dtype=against_dtype)
    progress = TerminalProgress()
    try:
        folder = random_model(shape, stored, progress) if shape is not None else find(spec, progress=progress).path
        jobs = _jobs(folder, spec, sizes, prompt_tokens, max_tokens, against_dtype if against else None)
        progress.start("measuring the memory's bandwidth", None)
        speed = measure_bandwidth("cpu" if spec.device == "auto" and not _has_gpu() else spec.device.replace("auto", "cuda"))
        results = run(jobs, runs, done=lambda name: progress.start(f"measuring {name}", None) if name else progress.finish())
    finally:
        progress.finish()
    charts = _charts(results)
    if svg is not None:
        _save(Path(svg), bars_svg(charts, title="olc bench"))
    if as_json:
        out_json(_document(shape or str(spec.model or folder.name), prompt_tokens, max_tokens, speed, results))
        return
    _show(results, speed)
    for title, values in charts:
        show_bars(title, values)


def _sizes(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= 256 for part in parts):
        raise UsageError(f"--batch {text} is not known", "give numbers from 1 to 256, such as --batch 1,8,16")
    return [int(part) for part in parts]


def _has_gpu() -> bool:
    # Without torch, whose import would make this process's memory part of every measurement.
    return Path("/dev/nvidia0").exists()


def _jobs(
    folder: Path, spec: ModelSpec, sizes: Sequence[int], prompt_tokens: int, max_tokens: int, rival: str | None
) -> dict[str, Job]:
    jobs: dict[str, Job] = {}
    quantize = getattr(spec, "quantize", None)
    for rows in sizes:
        suffix = "" if rows == 1 else f", {rows} rows"
        ours = Job(str(folder), "loop", spec.dtype, spec.device, prompt_tokens, max_tokens, rows, quantize)
        jobs[f"olc{f' {quantize}' if quantize else ''}{suffix}"] = ours
        if rival is not None:
            theirs = Job(str(folder), "transformers", rival, spec.device, prompt_tokens, max_tokens, rows)
            jobs[f"{_RIVAL}{suffix}"] = theirs
    return jobs


def _rival_of(result: Result, results: Sequence[Result]) -> Result | None:
    rivals = (other for other in results if other.job.engine == "transformers" and other.job.rows == result.job.rows)
    return next(rivals, None) if result.job.engine == "loop" else None


def _show(results: Sequence[Result], speed: float) -> None:
    rows = []
    for result in results:
        decode = result.spread("decode_tokens_per_s")
        share = "" if decode is None or result.job.rows > 1 else f"{_share(result, speed):.0%}"
        memory = result.spread("peak_memory_bytes")
        rows.append(
            [
                result.name,
                _spread(result.spread("load_s")),
                _spread(result.spread("time_to_first_token_s")),
                _spread(result.spread("prefill_tokens_per_s")),
                _spread(decode),
                _spread(result.spread("tokens_per_s")),
                size(memory.middle) if memory else "",
                share,
            ]
        )
    columns = ["", "load s", "first token s", "prefill/s", "decode/s", "tokens/s", "memory", "of bandwidth"]
    table(columns, rows, right=columns[1:], optional=["load s", "first token s", "memory"])
    ratios = []
    for result in results:
        rival = _rival_of(result, results)
        if rival is None:
            continue
        metrics = ("prefill_tokens_per_s", "decode_tokens_per_s", "tokens_per_s", "load_s")
        ratios.append([result.name, *(_spread(result.ratio(rival, metric)) for metric in metrics)])
    if ratios:
        columns = [f"times {_RIVAL}", "prefill", "decode", "all tokens", "load s"]
        table(columns, ratios, right=columns[1:])
    notice(f"olc: median (least to most); memory bandwidth {speed:.1f} GB/s; every figure from fresh processes")


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.least == spread.most:
        return f"{spread.middle:.3g}"
    return f"{spread.middle:.3g} ({spread.least:.3g} to {spread.most:.3g})"


def _share(result: Result, speed: float) -> float:
    """What part of the bandwidth decode uses, if reading the weights were all it did."""
    decode = result.spread("decode_tokens_per_s")
    return 0.0 if decode is None else decode.middle * result.weight_bytes_per_token / (speed * 1e9)


def _charts(results: Sequence[Result]) -> list[tuple[str, list[tuple[str, float]]]]:
    charts = []
    for metric, title in (("prefill_tokens_per_s", "prefill, tokens/s"), ("decode_tokens_per_s", "decode, tokens/s")):
        values = [(result.name, spread.middle) for result in results if (spread := result.spread(metric))]
        charts.append((title, values))
    return charts


def _document(model: str, prompt_tokens: int, max_tokens: int, speed: float, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "model": model,
        "prompt_tokens": prompt_tokens,
        "max_tokens": max_tokens,
        "bandwidth_gb_per_s": speed,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
        "olc": __version__,
        "results": [
            {
                "name": result.name,
                "engine": result.job.engine,
                "dtype": result.job.dtype,
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


def _save(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise OlcError(f"cannot write {path}: {error.strerror}", "name a file in a folder that you may write to") from error
