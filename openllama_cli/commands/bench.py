"""`olc bench`: load time, time to first token, tokens a second and memory, each from a fresh process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from openllama_cli.benchmark.runs import measure_bandwidth, run
from openllama_cli.benchmark.shapes import SHAPES, random_model
from openllama_cli.benchmark.worker import Job, prompt_lengths
from openllama_cli.commands.bench_output import RIVAL, charts, document, show
from openllama_cli.commands.options import model_options
from openllama_cli.commands.pictures import save, writable
from openllama_cli.errors import UsageError
from openllama_cli.models.checkpoint import inspect
from openllama_cli.models.find import find
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.bench_view import bars_svg, show_bars
from openllama_cli.terminal.progress import TerminalProgress
from openllama_cli.terminal.streams import out_json

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
    quantize = getattr(spec, "quantize", None)
    for rows in sizes:
        suffix = "" if rows == 1 else f", {rows} rows"
        ours = Job(str(folder), "loop", spec.dtype, spec.device, prompt_tokens, max_tokens, rows, quantize, name)
        jobs[f"olc{f' {quantize}' if quantize else ''}{suffix}"] = ours
        if rival is not None:
            theirs = Job(str(folder), "transformers", rival, spec.device, prompt_tokens, max_tokens, rows)
            jobs[f"{RIVAL}{suffix}"] = theirs
    return jobs
