"""What scoring costs beside a prefill: python -m openllama_cli.benchmark.score [-m MODEL | --shape 1b] [--prompt-tokens 512]

In fresh processes, in turn: a prompt that is completed with one token, as `olc bench` measures prefill, and the same prompt
scored, as `olc score` does it. Prints a line of JSON: tokens per second of both (least, median, most), and the ratio of each
turn's two.
"""

import argparse
import json
import sys
from dataclasses import astuple, replace

from openllama_cli.benchmark.job import Job
from openllama_cli.benchmark.runs import run
from openllama_cli.benchmark.shapes import random_model
from openllama_cli.models.find import find
from openllama_cli.models.spec import ModelSpec
from openllama_cli.system.progress import NullProgress


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m openllama_cli.benchmark.score")
    parser.add_argument("-m", "--model", default="demo")
    parser.add_argument("--shape", help="random weights of this shape, such as 1b, as of `olc bench --shape`")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    folder = (
        find(ModelSpec(model=asked.model)).path if asked.shape is None else random_model(asked.shape, "float16", NullProgress())
    )
    prefill = Job(str(folder), "loop", asked.dtype, "cpu", asked.prompt_tokens, 1, 1)
    jobs = {"prefill": prefill, "score": replace(prefill, engine="score")}
    results = run(jobs, asked.runs, begin=lambda name, done: print(f"{name}, {done} done", file=sys.stderr))
    figures: dict[str, object] = {"model": asked.shape or asked.model, "prompt_tokens": asked.prompt_tokens}
    for result in results:
        spread = result.spread("prefill_tokens_per_s")
        figures[f"{result.name}_tokens_per_s"] = [round(value, 1) for value in astuple(spread)] if spread is not None else None
    ratio = results[1].ratio(results[0], "prefill_tokens_per_s")
    figures["ratio"] = [round(value, 3) for value in astuple(ratio)] if ratio is not None else None
    print(json.dumps(figures | {"precision": results[0].precision}))


if __name__ == "__main__":
    main()
