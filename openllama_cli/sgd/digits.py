"""Digits to learn from and digits to be tested with: the UCI digits that are shipped, or files in MNIST's format.

Read and checked as bytes first (`read_digits`), so that what does not fit is refused before numpy is imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.errors import UsageError
from openllama_cli.sgd.files import SHIPPED, Pair, find_pairs
from openllama_cli.sgd.idx import Images, damaged, read_images, read_labels

if TYPE_CHECKING:
    from openllama_cli.sgd.network import Samples

# Of one set, the 3rd, 8th, 13th, … image of each digit is held out.
_FIFTH, _FIRST_HELD_OUT = 5, 2
# Above this many bytes of 64-bit numbers, 32-bit ones are kept, and become 64-bit ones in each mini-batch.
_WIDE = 100_000_000


@dataclass(frozen=True)
class Labelled:
    """Images with the digit of each."""

    images: Images
    labels: bytes


@dataclass(frozen=True)
class Digits:
    """Images of one shape, in two parts.

    name: what messages call them. held_out: which of `learn` are kept for the test; without them, `test` is.
    """

    name: str
    learn: Labelled
    test: Labelled | None
    held_out: frozenset[int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.learn.images.rows, self.learn.images.columns

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.shape[0] * self.shape[1]

    @property
    def training(self) -> int:
        """How many there are to learn from."""
        return self.learn.images.count - len(self.held_out)


def read_digits(paths: Sequence[Path] = ()) -> Digits:
    """Read the files, or without paths the digits that are shipped.

    Raises UsageError if files are missing or do not belong together, OlcError if one is damaged.
    """
    learn_files, test_files = find_pairs(paths or [SHIPPED])
    learn = _labeled(learn_files)
    name = ", ".join(path.name or str(path) for path in paths) or "the UCI digits"
    if test_files is None:
        held_out = _every_fifth(learn.labels)
        if not held_out:
            cause = f"{learn_files.images.name} holds {learn.images.count} images, too few to hold a fifth of each digit out"
            raise UsageError(cause, "give three or more images of a digit")
        return Digits(name, learn, None, held_out)
    test = _labeled(test_files)
    shapes = [(part.images.rows, part.images.columns) for part in (learn, test)]
    if shapes[0] != shapes[1]:
        (rows, columns), (test_rows, test_columns) = shapes
        cause = (
            f"{test_files.images.name} has images of {test_rows}×{test_columns}, {learn_files.images.name} of {rows}×{columns}"
        )
        raise UsageError(cause, "give files of one set")
    return Digits(name, learn, test, frozenset())


def prepare(digits: Digits) -> "tuple[Samples, Samples]":
    """What to learn from and what to test with: pixels between 0 and 1 (divided by the largest), labels one-hot."""
    import numpy as np

    from openllama_cli.sgd.network import Samples

    scale = max(digits.learn.images.pixels) or 1
    wide = 8 * len(digits.learn.images.pixels) <= _WIDE

    def samples(part: Labelled) -> Samples:
        grey = np.frombuffer(part.images.pixels, np.uint8).reshape(part.images.count, -1)
        x = np.divide(grey, scale, dtype=np.float64 if wide else np.float32)
        return Samples(x, np.eye(10)[np.frombuffer(part.labels, np.uint8)])

    learn = samples(digits.learn)
    if digits.test is not None:
        return learn, samples(digits.test)
    held_out = np.zeros(len(learn), bool)
    held_out[list(digits.held_out)] = True
    return learn[~held_out], learn[held_out]


def _labeled(pair: Pair) -> Labelled:
    images, labels = read_images(pair.images), read_labels(pair.labels)
    if images.count != len(labels):
        raise damaged(pair.labels, f"{len(labels):,} labels for the {images.count:,} images of {pair.images.name}")
    return Labelled(images, labels)


def _every_fifth(labels: bytes) -> frozenset[int]:
    """Places of the images held out: of each digit every fifth, so that both parts have the same mixture."""
    places: list[list[int]] = [[] for _ in range(10)]
    for place, label in enumerate(labels):
        places[label].append(place)
    return frozenset(place for one in places for place in one[_FIRST_HELD_OUT::_FIFTH])
