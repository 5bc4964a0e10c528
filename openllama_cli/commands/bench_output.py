"""What `olc bench` shows of its measurements: tables, bars, and one JSON document."""

import os
import platform
from collections.abc import Sequence
from typing import Any

from openllama_cli import __version__
from openllama_cli.benchmark.runs import METRICS, Result, Spread
from openllama_cli.terminal.streams import notice, out
from openllama_cli.terminal.tables import figure, size, table

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
