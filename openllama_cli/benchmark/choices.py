"""Choosing among texts against scoring each of them whole: `python -m openllama_cli.benchmark.choices -m demo`.

Choices are branches of one prompt: one prefill and one small pass. The other way is a full pass over the prompt with each
choice. Both give the same log-likelihoods; their largest difference is printed. In turn, each in a fresh process: the first
time there, as a command has it, and once more with another prompt, as a batch or a server has it.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from openllama_cli.benchmark.disturbance import Watch
from openllama_cli.benchmark.shapes import SHAPES, random_model
from openllama_cli.errors import OlcError
from openllama_cli.generation.session import choose_forward, load_model
from openllama_cli.models.opened import OpenedModel, open_model
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.system.progress import NullProgress

WAYS = ("choices", "whole texts")


@dataclass(frozen=True)
class Task:
    """What is measured. prompt, choices, tokens: tokens of the prompt, how many choices, tokens of each."""

    folder: str
    dtype: Any
    quantize: Any
    prompt: int
    choices: int
    tokens: int


def measure(task: Task, way: str) -> dict[str, Any]:
    """Seconds for each of some prompts, and the log-likelihoods of the first one's choices."""
    from openllama_cli.generation.decode.config import SamplingConfig
    from openllama_cli.generation.decode.loop import decode_rows
    from openllama_cli.generation.decode.request import Request

    spec = ModelSpec(task.folder, dtype=task.dtype, quantize=task.quantize)
    loaded = load_model(OpenedModel.of(ModelFolder(Path(task.folder), task.folder)), spec, one_row=True)
    forward, nothing = choose_forward(loaded), SamplingConfig(max_tokens=0)
    rng, vocab = random.Random(0), loaded.checkpoint.shape.vocab
    seconds, found = [], list[list[float]]()
    for _ in range(2):
        prompt = [1, *(rng.randrange(3, vocab) for _ in range(task.prompt - 1))]
        branches = [[rng.randrange(3, vocab) for _ in range(task.tokens)] for _ in range(task.choices)]
        if way == "choices":
            requests = [Request(0, prompt, nothing, branches=branches)]
        else:
            texts = enumerate([*prompt, *branch] for branch in branches)
            requests = [Request(row, text, nothing, score=True, unscored=len(prompt)) for row, text in texts]
        began = time.perf_counter()
        steps = list(decode_rows(forward, requests))
        seconds.append(time.perf_counter() - began)
        scored = [
            *(branch for step in steps for branch in step.branches),
            *(step.prompt[len(prompt) :] for step in steps if step.prompt),
        ]
        found.append([sum(token.logprob or 0.0 for token in branch) for branch in scored])
    return {"first_s": seconds[0], "then_s": seconds[1], "logprobs": found[0], "precision": loaded.precision}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.benchmark.choices", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("-m", "--model", default="demo")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape in place of a model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", choices=("int8", "int4"))
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--choice-tokens", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        way, task = json.loads(options.one)
        print(json.dumps(measure(Task(**task), way)))
        return 0
    try:
        if options.shape is not None:
            folder = random_model(options.shape, "float16", NullProgress())
        else:
            folder = open_model(ModelSpec(options.model)).folder.path
    except OlcError as error:
        print(f"error: {error.cause}\n  fix: {error.remedy}", file=sys.stderr)
        return error.exit_code
    sizes = (options.prompt_tokens, options.choices, options.choice_tokens)
    _compare(Task(str(folder), options.dtype, options.quantize, *sizes), options.runs)
    return 0


def _compare(task: Task, runs: int) -> None:
    watch = Watch()
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for way in WAYS:
            command = [sys.executable, "-m", "openllama_cli.benchmark.choices", "--one", json.dumps([way, asdict(task)])]
            results[way].append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    disturbance = watch.end()
    branched, whole = (results[way] for way in WAYS)
    pairs = zip(branched[0]["logprobs"], whole[0]["logprobs"], strict=True)
    precision = branched[0]["precision"]
    print(f"{task.choices} choices of {task.tokens} tokens after a prompt of {task.prompt}, {precision}, {runs} runs")
    for name, words in (("first_s", "first in a process"), ("then_s", "then")):
        own, other = ([run[name] for run in each] for each in (branched, whole))
        ratios = sorted(theirs / ours for ours, theirs in zip(own, other, strict=True))
        print(
            f"{words:>18}: choices {1000 * median(own):.1f} ms, whole texts {1000 * median(other):.1f} ms, "
            f"ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    print(f"largest difference of a log-likelihood: {max(abs(one - other) for one, other in pairs):.2g}")
    print(f"load average before: {disturbance.load_average}; cores taken by others: {disturbance.cores:.2f}")


if __name__ == "__main__":
    sys.exit(main())
