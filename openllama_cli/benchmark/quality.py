"""What quantized weights cost in quality: `python -m openllama_cli.benchmark.quality --quantize int8 -m demo`.

The perplexity of texts that the demo model has not seen, with unquantized and with quantized weights, and their ratio. For a
model other than the demo, which knows only such questions and answers, give a text with --file.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import model_options
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.generation.forward.transformers_forward import Forward
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import out, out_json

_PIECE = 512


@click.command()
@click.option("--file", type=click.Path(path_type=Path), help="Plain text to predict. [the demo model's held-out texts]")
@click.option("--sample", type=click.IntRange(min=1), default=120, show_default=True, metavar="N", help="Texts at most.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses the sample.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@model_options
def command(file: Path | None, sample: int, seed: int, as_json: bool, spec: ModelSpec) -> None:
    """Compare the perplexity of quantized weights with that of unquantized ones."""
    from dataclasses import replace

    if spec.quantize is None:
        raise UsageError("nothing to compare", "give --quantize int8 or --quantize int4")
    opened = open_model(spec)
    rows = _rows(opened, file, sample, seed)
    before = measure(opened, replace(spec, quantize=None, device="cpu"), rows)
    after = measure(opened, spec, rows)
    ratio = after / before
    tokens = sum(len(row) - 1 for row in rows)
    if as_json:
        out_json({"tokens": tokens, "unquantised": before, spec.quantize: after, "ratio": ratio})
    else:
        out(f"perplexity of {tokens:,} tokens: unquantized {before:.4f}, {spec.quantize} {after:.4f}, ratio {ratio:.4f}\n")


def measure(opened: OpenedModel, spec: ModelSpec, rows: list[list[int]]) -> float:
    """The perplexity of rows of token ids under a model."""
    from openllama_cli.generation.session import choose_forward

    return perplexity(choose_forward(load_model(opened, spec)), rows)


def _rows(opened: OpenedModel, file: Path | None, sample: int, seed: int) -> list[list[int]]:
    """Token ids of the texts, with BOS, and EOS behind whole ones."""
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
    pieces = [tokens[start : start + _PIECE] for start in range(0, len(tokens), _PIECE)]
    return [piece for piece in pieces if len(piece) > 1][:sample]


def perplexity(forward: Forward, rows: Sequence[Sequence[int]]) -> float:
    """exp of the mean negative log likelihood of every token behind each row's first one. rows: token ids, at least two."""
    nats, count = 0.0, 0
    for tokens in rows:
        logits = forward.prefill(tokens[:-1], forward.new_cache(len(tokens)), every=True)  # [n - 1, vocab]
        wanted = torch.tensor(list(tokens[1:]), device=logits.device)
        nats += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        count += len(wanted)
    return math.exp(nats / count)


if __name__ == "__main__":
    command()
