"""The settings of `olc sgd`; wrong values are refused with the name of the flag, before numpy is imported."""

import math
import os
import secrets
from dataclasses import dataclass, field
from itertools import pairwise

from openllama_cli.errors import UsageError

CLASSES = 10
COST_NAMES = ("quadratic", "cross-entropy")
# 160 MB of weights, and as much again for their gradient.
MAX_PARAMETERS = 20_000_000
_SIZES = "give two or more positive numbers, such as --sizes 64,30,10"


@dataclass(frozen=True)
class SgdConfig:
    """The settings of chapter 1 of Nielsen's book, except `sizes`, whose first layer fits the digits shipped with olc.

    sizes: neurons of each layer, input first. eta: the learning rate. cost: the loss function. seed: of the initial weights and
    the order of the mini-batches; random if not given. Raises UsageError.
    """

    sizes: tuple[int, ...] = (64, 30, CLASSES)
    epochs: int = 30
    mini_batch_size: int = 10
    eta: float = 3.0
    cost: str = "quadratic"
    seed: int = field(default_factory=lambda: secrets.randbits(31))

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            shown = ",".join(map(str, self.sizes))
            raise UsageError(f"--sizes {shown} is not a network", _SIZES)
        count = sum(y * x + y for x, y in pairwise(self.sizes))
        if count > MAX_PARAMETERS:
            cause = f"--sizes asks for {count:,} weights and biases; the limit is {MAX_PARAMETERS:,}"
            raise UsageError(cause, "give fewer neurons, such as --sizes 64,30,10")
        for flag, value in (("--epochs", self.epochs), ("--mini-batch-size", self.mini_batch_size)):
            if value < 1:
                raise UsageError(f"{flag} {value} is less than 1", "give 1 or more")
        if not (math.isfinite(self.eta) and self.eta > 0):
            raise UsageError(f"--eta {self.eta:g} is not a learning rate", "give a number above 0, such as --eta 3")
        if self.cost not in COST_NAMES:
            raise UsageError(f"--cost {self.cost} is unknown", f"give one of: {', '.join(COST_NAMES)}")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is below 0", "give 0 or more")

    def fit(self, pixels: int, training: int, data: str) -> None:
        """Raise UsageError unless the network fits images of `pixels` pixels and the number of training images."""
        if (self.sizes[0], self.sizes[-1]) != (pixels, CLASSES):
            fitting = ",".join(map(str, (pixels, *self.sizes[1:-1], CLASSES)))
            own = f"{self.sizes[0]:,} inputs and {self.sizes[-1]:,} outputs"
            cause = f"--sizes has {own}; {data} need {pixels:,} (pixels of an image) and {CLASSES} (digits)"
            raise UsageError(cause, f"give --sizes {fitting}")
        if self.mini_batch_size > training:
            cause = f"--mini-batch-size {self.mini_batch_size:,} is more than the {training:,} images to train on"
            raise UsageError(cause, f"give at most {training}")


def parse_sizes(text: str) -> tuple[int, ...]:
    """`64,30,10` as numbers. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise UsageError(f"--sizes {text!r} is not a list of numbers", _SIZES)
    return tuple(map(int, parts))


def one_thread() -> None:
    """Make numpy's matmuls use one thread. Call it before numpy is imported.

    The matrices of a mini-batch are too small to split, and threads that wait for each other make an epoch many times slower
    on a busy machine.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
