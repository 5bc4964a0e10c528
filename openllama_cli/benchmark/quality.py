"""What quantization costs in quality: `python -m openllama_cli.benchmark.quality --quantize int8 -m demo`.

The perplexity of texts that the demo model was not trained on, with unquantized and with quantized weights, and their ratio.
The demo model knows only such questions and answers; for other models give a text with --file.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.generation.forward.transformers_forward import Forward
from openllama_cli.generation.session import choose_forward, load_model
from openllama_cli.models.opened import OpenedModel, open_model
from openllama_cli.models.spec import ModelSpec, QuantizeName
from openllama_cli.system.device import DtypeName

_CHUNK = 512


def _rows(opened: OpenedModel, file: Path | None, sample: int, seed: int) -> list[list[int]]:
    """Token ids of the texts, with BOS, and EOS after complete ones."""
    encode, eos = opened.tokenizer.encode, sorted(opened.tokenizer.eos_ids)[:1]
    if file is None:
        from openllama_cli.demo_model.corpus import held_out_texts

        texts = held_out_texts()
        chosen = random.Random(seed).sample(texts, min(sample, len(texts)))
        return [[*encode(text), *eos] for text in chosen]
    try:
        tokens = encode(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OlcError(f"{file} cannot be read as text: {error}", "give a UTF-8 text file") from error
    chunks = [tokens[start : start + _CHUNK] for start in range(0, len(tokens), _CHUNK)]
    return [chunk for chunk in chunks if len(chunk) > 1][:sample]


def perplexity(forward: Forward, rows: Sequence[Sequence[int]]) -> float:
    """exp of the mean negative log-likelihood of all tokens but the first of each row. rows: at least two token ids each."""
    import torch

    nats, count = 0.0, 0
    for tokens in rows:
        logits = forward.prefill(tokens[:-1], forward.new_cache(len(tokens)), every=True)  # [n - 1, vocab]
        wanted = torch.tensor(list(tokens[1:]), device=logits.device)
        nats += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        count += len(wanted)
    return math.exp(nats / count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.benchmark.quality",
        description="Compare the perplexity of quantized weights with that of unquantized ones.",
    )
    parser.add_argument("-m", "--model", help="as for olc complete")
    parser.add_argument("--quantize", choices=get_args(QuantizeName))
    parser.add_argument("--file", type=Path, help="plain text to predict (default: the demo model's held-out texts)")
    parser.add_argument("--sample", type=int, default=120, metavar="N", help="maximum number of texts (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=get_args(DtypeName), default="auto")
    parser.add_argument("--revision")
    parser.add_argument("--offline", action="store_true")
    options = parser.parse_args(arguments)
    try:
        spec = ModelSpec(
            **{field.name: getattr(options, field.name) for field in fields(ModelSpec) if hasattr(options, field.name)}
        )
        print(_compare(spec, options.file, options.sample, options.seed, as_json=options.json))
    except OlcError as error:
        print(f"error: {error.cause}\n  fix: {error.remedy}", file=sys.stderr)
        return error.exit_code
    return 0


def _compare(spec: ModelSpec, file: Path | None, sample: int, seed: int, *, as_json: bool) -> str:
    if spec.quantize is None:
        raise UsageError("nothing to compare", "give --quantize int8 or --quantize int4")
    if sample < 1:
        raise UsageError(f"--sample {sample} is out of range", "give 1 or more")
    opened = open_model(spec, notice=lambda text: print(text, file=sys.stderr))
    rows = _rows(opened, file, sample, seed)
    unquantized = replace(spec, quantize=None, device="cpu")
    before, after = (perplexity(choose_forward(load_model(opened, one)), rows) for one in (unquantized, spec))
    tokens = sum(len(row) - 1 for row in rows)
    if as_json:
        return json.dumps({"tokens": tokens, "unquantised": before, spec.quantize: after, "ratio": after / before})
    return f"perplexity of {tokens:,} tokens: unquantized {before:.4f}, {spec.quantize} {after:.4f}, ratio {after / before:.4f}"


if __name__ == "__main__":
    sys.exit(main())
