"""Trains the demo model: `python -m openllama_cli.demo_model.train [--out DIR]`.

A small Llama with random weights, trained on the facts of this folder: first the tokenizer, then the network with AdamW. On one
machine, the same seed and number of threads give the same weights.
"""

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from openllama_cli.demo_model.corpus import load_corpus
from openllama_cli.demo_model.examples import ExampleStream, Parts
from openllama_cli.demo_model.files import BOS, EOS, WEIGHTS, PartEncoder, train_tokenizer, write_model, write_settings

PROMPT_WEIGHT = 0.1  # of prompt tokens in the loss, where answer tokens have 1
POOL = 64  # batches whose examples are sorted by length together, so that rows of a batch need little padding


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that a training run depends on, besides the corpus.

    tokens_per_batch includes padding; learning_rate is the peak, reached after warmup_steps and followed by a cosine decay.
    """

    seed: int = 1
    steps: int = 1400
    tokens_per_batch: int = 3072
    learning_rate: float = 3e-3
    warmup_steps: int = 150
    weight_decay: float = 0.1
    vocab_size: int = 2000
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 6
    heads: int = 6
    context: int = 1024
    bfloat16: bool = False


@dataclass(frozen=True)
class Row:
    """One example: token ids, and the weight of each in the loss."""

    ids: list[int]
    weights: list[float]


# Token ids, int64 [rows, length], padded on the right with 0; and weights, float32 of the same shape, 0 for padding.
Batch = tuple[torch.Tensor, torch.Tensor]


def to_row(parts: Parts, encoder: PartEncoder) -> Row:
    """BOS, the parts, EOS. Tokens that the model should write have weight 1, those it only reads PROMPT_WEIGHT.

    The first token after an answer has weight 0: there the model should stop, not continue, which only the end of the whole
    example teaches.
    """
    ids: list[int] = []
    weights: list[float] = []
    after_answer = False
    for index, part in enumerate(parts):
        pieces = encoder.following(part.text) if index else encoder.first(part.text)
        ids += pieces
        weights += [1.0 if part.answer else PROMPT_WEIGHT] * len(pieces)
        if after_answer and not part.answer:
            weights[-len(pieces)] = 0.0
        after_answer = part.answer
    return Row([*ids, EOS], [*weights, 1.0])


def batches(stream: ExampleStream, encoder: PartEncoder, *, tokens: int, seed: int) -> Iterator[Batch]:
    """Endless batches of about `tokens` tokens each, in an order that depends only on the seed."""
    rng = random.Random(seed)
    while True:
        rows: list[Row] = []
        total = 0
        while total < tokens * POOL:
            row = to_row(stream.draw(), encoder)
            rows.append(row)
            total += len(row.ids)
        rows.sort(key=lambda row: len(row.ids))
        pool: list[list[Row]] = [[]]
        for row in rows:
            if pool[-1] and len(row.ids) * (len(pool[-1]) + 1) > tokens:
                pool.append([])
            pool[-1].append(row)
        rng.shuffle(pool)
        for group in pool:
            ids, weights = [torch.tensor(row.ids) for row in group], [torch.tensor(row.weights) for row in group]
            yield pad_sequence(ids, batch_first=True), pad_sequence(weights, batch_first=True)


def build_model(config: TrainingConfig) -> LlamaForCausalLM:
    """A Llama with random weights from the seed."""
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            rms_norm_eps=1e-6,
            pad_token_id=0,
            bos_token_id=BOS,
            eos_token_id=EOS,
            tie_word_embeddings=False,
        )
    )
    model.set_attn_implementation("causal_float32")
    return model


def _causal_float32(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Plain causal attention in float32 despite autocast: the backward pass of torch's bfloat16 is five times slower on a CPU.

    query, key, value: [rows, heads, length, head size]; returns [rows, length, heads, head size]. Padding needs no mask.
    """
    with torch.autocast("cpu", enabled=False):
        out = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=scaling
        )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("causal_float32", _causal_float32)


def train(config: TrainingConfig, folder: Path, *, report: Callable[[int, float], None] | None = None) -> list[float]:
    """Train and write the model's files into folder; returns the loss of every step (nats, weighted mean per token)."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus()
    tokenizer = folder / "tokenizer.model"
    train_tokenizer(corpus, tokenizer, vocab_size=config.vocab_size)
    write_settings(folder, context=config.context)
    stream, encoder = ExampleStream(corpus, config.seed), PartEncoder(tokenizer)
    source = batches(stream, encoder, tokens=config.tokens_per_batch, seed=config.seed)
    model = build_model(config)
    # Weight decay only for matrices.
    groups = [
        {"params": [one for one in model.parameters() if one.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [one for one in model.parameters() if one.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    losses: list[float] = []
    for step in range(config.steps):
        loss = _loss(model, *next(source), bfloat16=config.bfloat16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if report:
            report(step, losses[-1])
    write_model(model, folder)
    return losses


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor, *, bfloat16: bool) -> torch.Tensor:
    """Weighted mean cross-entropy of the next token. Padding is on the right, where causal attention does not look."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        weights = weights[:, 1:].flatten()
        counted = weights > 0
        logits = model.lm_head(hidden.flatten(0, 1)[counted])
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:].flatten()[counted], reduction="none")
    return (losses * weights[counted]).sum() / weights.sum()


def _rate(step: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine down to 1 %."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def main() -> None:
    fast_bfloat16 = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()
    default = TrainingConfig(bfloat16=fast_bfloat16)
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.demo_model.train", description="Train the demo model of olc."
    )
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, help="folder for the model's files (default: the packaged weights)"
    )
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--threads", type=int, default=1, help="the shipped weights were made with one")
    parser.add_argument("--float32", action="store_true", help="compute in float32 even where bfloat16 is fast")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = replace(default, steps=options.steps, seed=options.seed, bfloat16=default.bfloat16 and not options.float32)
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 50 == 49:
            print(f"step {step + 1}/{config.steps}  loss {loss:.4f}  {time.monotonic() - started:.0f} s", flush=True)

    train(config, options.out, report=report)
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes: {options.out}")


if __name__ == "__main__":
    main()
