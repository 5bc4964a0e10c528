"""`olc bench`: load time, time to first token, tokens per second and memory, each measured in a fresh process."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from openllama_cli.benchmark.disturbance import Watch
from openllama_cli.benchmark.gguf import gguf_file, gguf_type
from openllama_cli.benchmark.job import Job, prompt_lengths
from openllama_cli.benchmark.llama_cpp import check_installed
from openllama_cli.benchmark.report import BASELINES, Report
from openllama_cli.benchmark.runs import Spread, measure_bandwidth, run
from openllama_cli.benchmark.shapes import SHAPES, random_model
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

_LONGEST_PROMPT, _MOST_ROWS = 1_000_000, 256

EXAMPLES = """\b
Examples:
  olc bench
  olc bench --shape 3b --against transformers --runs 3
  olc bench --shape 1b --against llama.cpp --prompt-tokens 64,512 --quantize int4
  olc bench -m 3b-v2 --batch-size 1,8,16 --json
"""


@click.command(epilog=EXAMPLES)
@click.option("--shape", metavar="|".join(SHAPES), help="Random weights of this shape, written to the cache once.")
@click.option("--stored", metavar="float16|bfloat16", show_default="float16", help="Storage type of --shape's weights.")
@click.option(
    "--prompt-tokens", default="64", show_default=True, metavar="N,N,…", help="Tokens per prompt; several lengths to measure."
)
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
@click.option(
    "--against",
    type=click.Choice(list(BASELINES)),
    multiple=True,
    help="Also measure a baseline, in turn: model.generate, or llama.cpp at equal bits with --shape. Can be given twice.",
)
@click.option("--against-dtype", metavar="DTYPE", show_default="bfloat16", help="Precision of model.generate.")
@number_option("--busy", least=0, default=0, help="Busy processes to run alongside.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every measurement.")
@click.option("--svg", metavar="FILE", help="Save the bars as a picture.")
@model_options
def command(
    shape: str | None,
    stored: str | None,
    prompt_tokens: str,
    max_tokens: int,
    batch_size: str,
    runs: int,
    against: tuple[str, ...],
    against_dtype: Any,
    busy: int,
    as_json: bool,
    svg: str | None,
    spec: ModelSpec,
) -> None:
    """Measure the speed and memory of a model on this machine.

    Every figure comes from a fresh process, since a command line always starts cold; olc and the baselines take turns. Decode
    speed is compared with the memory bandwidth, measured in the same run: each token has to read all weights once. A line says
    so if other work kept the machine busy meanwhile.
    """
    if spec.adapters:
        raise UsageError("--adapter changes no speed: it is merged into the weights", "leave it out")
    if shape is not None and spec.model is not None:
        raise UsageError("--model and --shape were both given", "give one of them")
    if stored is not None and shape is None:
        raise UsageError(f"--stored {stored} is for random weights", "add --shape, or leave it out")
    if against_dtype is not None and "transformers" not in against:
        raise UsageError(f"--against-dtype {against_dtype} is for the baseline", "add --against transformers, or leave it out")
    if "llama.cpp" in against and shape is None:
        raise UsageError("--against llama.cpp is for random weights", "add --shape 1b, or leave it out")
    stored, against_dtype = stored or "float16", against_dtype or "bfloat16"
    if stored not in ("float16", "bfloat16"):
        raise UsageError(f"--stored {stored} is not known", "use float16 or bfloat16")
    sizes = _numbers("--batch-size", batch_size, _MOST_ROWS, "1,8,16")
    lengths = _numbers("--prompt-tokens", prompt_tokens, _LONGEST_PROMPT, "64,256,512")
    ModelSpec(dtype=against_dtype)
    if svg is not None:
        writable(svg)
    if "llama.cpp" in against:
        check_installed()
    watch = Watch()
    progress = TerminalProgress()
    try:
        found = None if shape is not None else find(spec, progress=progress)
        folder = found.path if found is not None else random_model(shape or "", stored, progress)
        name = found.name if found is not None else str(shape)
        kinds = {"olc": Job(str(folder), "loop", spec.dtype, spec.device, 0, max_tokens, 0, spec.quantize, name)}
        if spec.quantize:
            kinds = {f"olc {spec.quantize}": kinds["olc"]}
        if "transformers" in against:
            kinds[BASELINES["transformers"]] = Job(str(folder), "transformers", against_dtype, spec.device, 0, max_tokens, 0)
        if "llama.cpp" in against:
            file, kind = gguf_file(folder, spec.quantize, progress), gguf_type(stored, spec.quantize)
            kinds[BASELINES["llama.cpp"]] = Job(str(file), "llama.cpp", kind, spec.device, 0, max_tokens, 0)
        jobs = _jobs(kinds, lengths, sizes)
        _check_context(inspect(folder).shape.context, list(jobs.values()))
        progress.start_steps("measuring", runs * len(jobs))
        progress.step("measuring the memory bandwidth", 0)
        bandwidth = measure_bandwidth(spec.device)
        results = run(jobs, runs, busy=busy, begin=lambda name, done: progress.step(f"measuring {name}", done))
    finally:
        progress.finish()
    report = Report(name, lengths, max_tokens, busy, bandwidth, watch.end(), results)
    if as_json:
        out_json(report.document())
    else:
        _show(report)
    if (line := report.busy_line()) is not None:
        note(line)
    if svg is not None:
        save(Path(svg), bars_svg(_bars(report), title="olc bench"))


def _numbers(option: str, text: str, most: int, example: str) -> list[int]:
    """Of a list such as 1,8,16, each once. Raises UsageError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= most for part in parts):
        cause = f"{option} {text} is not a list of numbers from 1 to {most:,}"
        raise UsageError(cause, f"give one or more, such as {option} {example}")
    return list(dict.fromkeys(int(part) for part in parts))


def _check_context(context: int, jobs: Sequence[Job]) -> None:
    """Raise UsageError if rows would be longer than the model's context."""
    longest = max(max(prompt_lengths(job)) + job.max_tokens for job in jobs)
    if longest > context:
        raise UsageError(
            f"the longest row would have {longest} tokens, but the model has a context of {context}",
            "lower --prompt-tokens or --max-tokens (in a batch, prompts have up to one and a half times --prompt-tokens)",
        )


def _jobs(kinds: Mapping[str, Job], lengths: Sequence[int], sizes: Sequence[int]) -> dict[str, Job]:
    """The measurements by name. kinds: olc and the baselines, each to be measured at all prompt lengths and batch sizes."""
    jobs: dict[str, Job] = {}
    for length, rows in itertools.product(lengths, sizes):
        suffix = (f", {length} tokens" if len(lengths) > 1 else "") + (f", {rows} rows" if rows > 1 else "")
        jobs |= {name + suffix: replace(job, prompt_tokens=length, rows=rows) for name, job in kinds.items()}
    return jobs


def _show(report: Report) -> None:
    """Tables of the medians, ranges and ratios; on a terminal also bars."""
    times = ("process_s", "load_s", "time_to_first_token_s")
    speeds = ("prefill_tokens_per_s", "decode_tokens_per_s", "tokens_per_s")
    rows = []
    for result in report.results:
        share, memory = report.share_of_bandwidth(result), result.spread("peak_memory_bytes")
        figures = [_spread(result.spread(metric)) for metric in (*times, *speeds)]
        measured = share is not None and result.spread("decode_tokens_per_s") is not None
        rows.append([result.name, *figures, size(memory.middle) if memory else "", f"{share:.0%}" if measured else ""])
    columns = ["", "process s", "load s", "first token s", "prefill/s", "decode/s", "tokens/s", "memory", "of bandwidth"]
    table(columns, rows, right=columns[1:], optional=["process s", "load s", "first token s", "memory"])
    for engine, baseline_name in BASELINES.items():
        ratios = [
            [result.name, *(_spread(result.ratio(baseline, metric)) for metric in (*speeds, "load_s", "process_s"))]
            for result in report.results
            if (baseline := report.baseline(result, engine)) is not None
        ]
        if ratios:
            out("\n")
            columns = [f"times {baseline_name}", "prefill", "decode", "all tokens", "load s", "process s"]
            table(columns, ratios, right=columns[1:], optional=["load s", "process s"])
    precisions = {result.job.engine: result.precision for result in report.results}
    others = [f"{BASELINES[engine]} in {precision}" for engine, precision in precisions.items() if engine in BASELINES]
    note(
        f"{report.model} in {', '.join([precisions['loop'], *others])}, prompts of {', '.join(map(str, report.prompt_tokens))} "
        f"tokens, {report.max_tokens} generated; median (range), every figure from fresh processes; memory bandwidth "
        f"{report.bandwidth:.1f} GB/s"
    )
    note("first token: of the first row; prefill: until every row has its first token")
    for title, values in _bars(report):
        show_bars(title, values)


def _bars(report: Report) -> list[tuple[str, list[tuple[str, float]]]]:
    """Titles, each with the names and medians of its bars."""
    titles = {"prefill_tokens_per_s": "prefill, tokens/s", "decode_tokens_per_s": "decode, tokens/s"}
    return [
        (title, [(result.name, spread.middle) for result in report.results if (spread := result.spread(metric))])
        for metric, title in titles.items()
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.least == spread.most:
        return figure(spread.middle)
    return f"{figure(spread.middle)} ({figure(spread.least)} to {figure(spread.most)})"
