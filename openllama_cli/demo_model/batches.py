"""Training examples as batches of token ids."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from openllama_cli.demo_model.examples import ExampleStream
from openllama_cli.demo_model.formats import Parts
from openllama_cli.demo_model.tokenizer_training import EOS, PartEncoder

POOL = 64  # batches whose examples are sorted by length together, so that rows of a batch hardly need padding


@dataclass(frozen=True)
class Row:
    """One example: token ids, and for each how much its prediction counts in the loss."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """ids: int64 (rows, length), padded on the right with 0; weights: float32 of the same shape, 0 where padded."""

    ids: torch.Tensor
    weights: torch.Tensor


def to_row(parts: Parts, encoder: PartEncoder, *, prompt_weight: float) -> Row:
    """BOS, the parts, EOS. What the model is to write counts 1 a token, what it reads `prompt_weight`.

    The first token of a text that follows an answer counts nothing: there the model should end, not go on, and only the
    end of the whole example says so.
    """
    ids: list[int] = []
    weights: list[float] = []
    after_answer = False
    for index, part in enumerate(parts):
        pieces = encoder.following(part.text) if index else encoder.first(part.text)
        ids += pieces
        weights += [1.0 if part.answer else prompt_weight] * len(pieces)
        if after_answer and not part.answer:
            weights[-len(pieces)] = 0.0
        after_answer = part.answer
    return Row([*ids, EOS], [*weights, 1.0])


def batches(stream: ExampleStream, encoder: PartEncoder, *, tokens: int, prompt_weight: float, seed: int) -> Iterator[Batch]:
    """Endless batches of about `tokens` tokens each, in an order that depends on the seed alone."""
    rng = random.Random(seed)
    while True:
        rows: list[Row] = []
        total = 0
        while total < tokens * POOL:
            row = to_row(stream.draw(), encoder, prompt_weight=prompt_weight)
            rows.append(row)
            total += len(row.ids)
        rows.sort(key=lambda row: len(row.ids))
        pool = list(_cut(rows, tokens))
        rng.shuffle(pool)
        yield from (_stack(group) for group in pool)


def _cut(rows: list[Row], tokens: int) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        if group and len(row.ids) * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(row)
    yield group


def _stack(rows: list[Row]) -> Batch:
    length = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    weights = torch.zeros(len(rows), length)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        weights[index, : len(row.ids)] = torch.tensor(row.weights)
    return Batch(ids, weights)
