"""Digits to train on and to test with: the UCI digits shipped with olc, or files in MNIST's format.

Files are found, read and checked as bytes first (`read_digits`), so that errors come before numpy is imported.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from openllama_cli.errors import UsageError
from openllama_cli.sgd.config import CLASSES
from openllama_cli.sgd.idx import IMAGES, Images, damaged, dimensions, read_images, read_labels

if TYPE_CHECKING:
    from openllama_cli.sgd.network import Samples

SHIPPED = Path(__file__).parent / "data"
_NAME = re.compile(r"(images|labels).*?idx[13]|idx[13].*?(images|labels)", re.IGNORECASE)
_TEST = re.compile(r"t10k|test", re.IGNORECASE)
_MNIST = "train-images-idx3-ubyte and train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, or .gz"
_OTHERS = (".pkl", ".pkl.gz", ".pickle", ".npz", ".npy", ".csv", ".parquet", ".h5", ".mat", ".zip", ".html", ".png")
# Of a single set, the 3rd, 8th, 13th, … image of each digit is held out.
_FIFTH, _FIRST_HELD_OUT = 5, 2
# Above this many bytes in float64, pixels are kept in float32 and converted in each mini-batch.
_WIDE = 100_000_000


@dataclass(frozen=True)
class Labeled:
    """Images with the digit of each, and the file of the images."""

    images: Images
    labels: bytes
    file: Path


@dataclass(frozen=True)
class Digits:
    """Images of one shape, in two parts.

    name: for messages. held_out: the indices in `train` that are kept for the test if there is no `test`.
    """

    name: str
    train: Labeled
    test: Labeled | None
    held_out: frozenset[int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an image."""
        return self.train.images.rows, self.train.images.columns

    @property
    def pixels(self) -> int:
        """Pixels of an image."""
        return self.shape[0] * self.shape[1]

    @property
    def training(self) -> int:
        """How many images there are to train on."""
        return self.train.images.count - len(self.held_out)


def read_digits(paths: Sequence[Path] = ()) -> Digits:
    """Read the files, or without paths the digits shipped with olc.

    Raises UsageError if files are missing or do not belong together, OlcError if one is damaged.
    """
    pairs = _find_pairs(paths or [SHIPPED])
    train, *rest = (_read(*pair) for pair in pairs)
    name = ", ".join(path.name or str(path) for path in paths) or "the UCI digits"
    if not rest:
        # Every fifth of each digit, so that both parts have the same mixture.
        places = [[place for place, label in enumerate(train.labels) if label == digit] for digit in range(CLASSES)]
        held_out = frozenset(place for one in places for place in one[_FIRST_HELD_OUT::_FIFTH])
        if not held_out:
            cause = f"{train.file.name} holds {train.images.count} images, too few to hold out a fifth of each digit"
            raise UsageError(cause, "give three or more images of a digit")
        return Digits(name, train, None, held_out)
    (test,) = rest
    ours, theirs = (f"{part.images.rows}×{part.images.columns}" for part in (train, test))
    if ours != theirs:
        cause = f"{test.file.name} has images of {theirs}, {train.file.name} of {ours}"
        raise UsageError(cause, "give the files of one data set")
    return Digits(name, train, test, frozenset())


def prepare(digits: Digits) -> "tuple[Samples, Samples]":
    """Training and test data: pixels between 0 and 1 (divided by the largest), labels one-hot."""
    import numpy as np

    from openllama_cli.sgd.network import Samples

    scale = max(digits.train.images.pixels) or 1
    dtype = np.float64 if 8 * len(digits.train.images.pixels) <= _WIDE else np.float32

    def samples(part: Labeled) -> Samples:
        grey = np.frombuffer(part.images.pixels, np.uint8).reshape(part.images.count, -1)
        x = np.divide(grey, scale, dtype=dtype)
        return Samples(x, np.eye(CLASSES)[np.frombuffer(part.labels, np.uint8)])

    train = samples(digits.train)
    if digits.test is not None:
        return train, samples(digits.test)
    held_out = np.zeros(len(train), bool)
    held_out[list(digits.held_out)] = True
    return train[~held_out], train[held_out]


def _read(images_file: Path, labels_file: Path) -> Labeled:
    images, labels = read_images(images_file), read_labels(labels_file)
    if images.count != len(labels):
        raise damaged(labels_file, f"{len(labels):,} labels for the {images.count:,} images of {images_file.name}")
    return Labeled(images, labels, images_file)


def _find_pairs(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """(images, labels) to train on and to test with; a single pair is to be split.

    paths: folders, whose files are recognized by MNIST's names, or files; the counterpart of a single file is found next to it.
    Test files have `t10k` or `test` in their names. Raises UsageError.
    """
    found = [file for path in paths for file in (_in_folder(path) if path.is_dir() else [path])]
    files = list(dict.fromkeys(found))
    if len(files) == 1 and not paths[0].is_dir():
        files += _counterpart(files[0])
    images = [file for file in files if dimensions(file) == IMAGES]
    labels = [file for file in files if file not in images]
    if len(images) == len(labels) == 1:
        return [(images[0], labels[0])]
    pairs = [pair for test in (False, True) if (pair := _pair(images, labels, test=test)) is not None]
    if not pairs:
        raise UsageError(f"{paths[0]} has no images in MNIST's format", f"its files are {_MNIST}")
    return pairs


def _in_folder(folder: Path) -> list[Path]:
    """The IDX files in a folder by their names; of a plain and a compressed file of the same name, the plain one."""
    try:
        # Archives have folders of these names too.
        names = sorted(file.name for file in folder.iterdir() if _NAME.search(file.name) and file.is_file())
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}", "give a readable folder") from error
    chosen = [name for name in names if not (name.endswith(".gz") and name.removesuffix(".gz") in names)]
    if not chosen:
        other = min((file.name for file in folder.iterdir() if file.name.endswith(_OTHERS)), default=None)
        has = f"; {other} is not one" if other else ""
        raise UsageError(f"no IDX files are in {folder}{has}", f"MNIST's are {_MNIST}")
    return [folder / name for name in chosen]


def _counterpart(file: Path) -> list[Path]:
    """By name, the labels next to a file of images, or the images next to labels, if there are any."""
    plain = file.name.removesuffix(".gz")
    swapped = {"images": "labels", "labels": "images", "idx3": "idx1", "idx1": "idx3"}
    name = re.sub("images|labels|idx[13]", lambda found: swapped[found[0]], plain)
    others = [file.with_name(other) for other in (name, f"{name}.gz") if name != plain]
    return [other for other in others if other.is_file()][:1]


def _pair(images: Sequence[Path], labels: Sequence[Path], *, test: bool) -> tuple[Path, Path] | None:
    """The images and labels to train on or, if `test`, to test with; None if there are neither. Raises UsageError."""
    by_kind = {"images": images, "labels": labels}
    ours = {kind: [file for file in files if bool(_TEST.search(file.name)) == test] for kind, files in by_kind.items()}
    purpose = "to test with" if test else "to train on"
    for kind, files in ours.items():
        if len(files) > 1:
            cause = f"two files of {kind} {purpose}: {files[0].name} and {files[1].name}"
            raise UsageError(cause, "name the files of one set: --data IMAGES --data LABELS")
    present = [files[0] for files in ours.values() if files]
    if len(present) == 1:
        missing = "labels" if ours["images"] else "images"
        remedy = f"give both: --data IMAGES --data LABELS ({_MNIST})"
        raise UsageError(f"{present[0].name} has no matching file of {missing}", remedy)
    return (present[0], present[1]) if present else None
