"""How often greedy decoding leaves a loop again: `python -m openllama_cli.benchmark.decoding.loops -m demo --dtype float32`.

Every prompt is completed greedily to the end of the context, without EOS, so that nothing but the model ends a loop. For each
period
of tokens that repeats: how often it stood there at most, and whether other tokens came after it. The loop guard's rule
(`generation.decode.repetition`) is to end what never does.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

from openllama_cli.errors import OlcError
from openllama_cli.models.spec import ModelSpec
from openllama_cli.system.device import DtypeName

# Lower bounds of the rows of the table.
_TIMES = (2, 3, 4, 6, 8, 12, 16, 32)


@dataclass(frozen=True)
class Loop:
    """A stretch of tokens in which each equals the one `period` before it.

    tokens: of the stretch, its first period included. left: whether other tokens followed before the text was cut. end: where
    it ends. key: of its text and prompt, so that one is told from another.
    """

    period: int
    tokens: int
    left: bool
    end: int

    @property
    def times(self) -> float:
        """How often the period stands there."""
        return self.tokens / self.period


def loops(tokens: Sequence[int], longest: int) -> Iterator[Loop]:
    """All stretches of at least two periods; of those that lie in one another, the one with the shortest period."""
    found: list[Loop] = []
    for period in range(1, longest + 1):
        run = 0
        for place in range(period, len(tokens) + 1):
            if place < len(tokens) and tokens[place] == tokens[place - period]:
                run += 1
                continue
            if run >= period:
                start, end = place - run - period, place
                inside = any(other.end >= end and other.end - other.tokens <= start for other in found)
                if not inside:
                    found.append(Loop(period, run + period, end < len(tokens), end))
            run = 0
    yield from found


def _prompts(file: Path | None, count: int, seed: int) -> list[str]:
    if file is not None:
        return file.read_text(encoding="utf-8").splitlines()[:count]
    from openllama_cli.demo_model.corpus import held_out_texts

    texts = held_out_texts()
    chosen = random.Random(seed).sample(texts, min(count, len(texts)))
    # Whole questions, answered ones, and texts cut off anywhere.
    chance = random.Random(seed)
    return [text[: chance.randrange(8, len(text) + 1)] for text in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.benchmark.decoding.loops",
        description="Count loops of greedy decoding, and those that are left again.",
    )
    parser.add_argument("-m", "--model", help="as for olc complete")
    parser.add_argument("--prompts", type=Path, help="one per line (default: beginnings of the demo model's held-out texts)")
    parser.add_argument("--sample", type=int, default=300, metavar="N", help="maximum number of prompts (default: 300)")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="of each completion (default: 512)")
    parser.add_argument("--longest", type=int, default=128, metavar="N", help="the longest period (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--json", action="store_true", help="print every loop as a line of JSON")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=get_args(DtypeName), default="auto")
    parser.add_argument("--revision")
    parser.add_argument("--quantize")
    parser.add_argument("--offline", action="store_true")
    options = parser.parse_args(arguments)
    try:
        spec = ModelSpec(**{field.name: getattr(options, field.name) for field in fields(ModelSpec)})
        texts = _prompts(options.prompts, options.sample, options.seed)
        rows = _complete(spec, texts, options.max_tokens)
    except OlcError as error:
        print(f"error: {error.cause}\n  fix: {error.remedy}", file=sys.stderr)
        return error.exit_code
    found = [loop for row in rows for loop in loops(row, options.longest)]
    if options.json:
        for loop in found:
            print(json.dumps({"period": loop.period, "times": round(loop.times, 2), "tokens": loop.tokens, "left": loop.left}))
    else:
        print(_table(found, len(rows), sum(map(len, rows))))
    return 0


def _complete(spec: ModelSpec, texts: Sequence[str], most: int) -> list[list[int]]:
    """The tokens that follow each text, greedily."""
    from openllama_cli.generation.decode.config import SamplingConfig
    from openllama_cli.generation.decode.request import Request
    from openllama_cli.generation.session import load_model, make_engine
    from openllama_cli.generation.text.stream import stream
    from openllama_cli.models.opened import open_model

    opened = open_model(spec)
    config = SamplingConfig(max_tokens=most, ignore_eos=True)
    requests = [Request(row, opened.tokenizer.encode(text), config) for row, text in enumerate(texts)]
    rows: list[list[int]] = [[] for _ in requests]
    for step in stream(make_engine(load_model(opened, spec)), opened.tokenizer, requests):
        if step.scored is not None:
            rows[step.row].append(step.scored.token)
    return rows


def _table(found: Sequence[Loop], rows: int, tokens: int) -> str:
    """How many loops stood there at least so often, and how many of them were left; the longest that was left."""
    lines = [
        f"{rows} completions, {tokens} tokens",
        f"{'times':>6} {'loops':>7} {'left again':>11} {'longest left, tokens':>21}",
    ]
    for least in _TIMES:
        those = [loop for loop in found if loop.times >= least]
        left = [loop for loop in those if loop.left]
        longest = max((loop.tokens for loop in left), default=0)
        lines.append(f"{f'≥ {least}':>6} {len(those):>7} {len(left):>11} {longest:>21}")
    most = Counter({loop.period: 0 for loop in found if loop.left})
    for loop in found:
        if loop.left:
            most[loop.period] = max(most[loop.period], loop.tokens)
    lines.append("longest stretch that was left, by period: " + ", ".join(f"{p}: {n}" for p, n in sorted(most.items())))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
