"""Which IDX files belong together: images and their labels, to learn from and to be tested with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openllama_cli.errors import UsageError
from openllama_cli.sgd.idx import IMAGES, dimensions

SHIPPED = Path(__file__).parent / "data"
_NAME = re.compile(r"(images|labels).*?idx[13]|idx[13].*?(images|labels)", re.IGNORECASE)
_TEST = re.compile(r"t10k|test", re.IGNORECASE)
_MNIST = "train-images-idx3-ubyte and train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, or .gz"


@dataclass(frozen=True)
class Pair:
    """A file of images and the file of their labels."""

    images: Path
    labels: Path


def find_pairs(paths: Sequence[Path]) -> tuple[Pair, Pair | None]:
    """The pair to learn from, and the pair to test with; None where there is one pair only, which is to be split.

    paths: folders, whose files are told apart by MNIST's names, or files; of a single file its fellow lies beside it. Test
    files have `t10k` or `test` in their names. Raises UsageError.
    """
    files: list[Path] = []
    for path in paths:
        found = _in_folder(path) if path.is_dir() else [path]
        files += [file for file in found if file not in files]
    if len(files) == 1 and not paths[0].is_dir():
        files += _fellow(files[0])
    images = [file for file in files if dimensions(file) == IMAGES]
    labels = [file for file in files if file not in images]
    if len(images) == len(labels) == 1:
        return Pair(images[0], labels[0]), None
    pairs = [_pair(images, labels, test=test) for test in (False, True)]
    found_pairs = [pair for pair in pairs if pair is not None]
    if not found_pairs:
        raise UsageError(f"{paths[0]} holds no images in MNIST's format", f"its files are {_MNIST}")
    return found_pairs[0], found_pairs[1] if len(found_pairs) == 2 else None


def _in_folder(folder: Path) -> list[Path]:
    """The IDX files of a folder by their names; of a plain and a compressed one of the same name the plain one."""
    try:
        # Archives have folders of these names too.
        names = sorted(file.name for file in folder.iterdir() if _NAME.search(file.name) and file.is_file())
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}", "give a folder that you may read") from error
    chosen = [name for name in names if not (name.endswith(".gz") and name.removesuffix(".gz") in names)]
    if not chosen:
        raise UsageError(f"no IDX files are in {folder}", f"MNIST's are {_MNIST}")
    return [folder / name for name in chosen]


def _fellow(file: Path) -> list[Path]:
    """The labels that lie beside a file of images, or the images beside labels, by name."""
    name = file.name.removesuffix(".gz")
    if "images" in name:
        name = name.replace("images", "labels").replace("idx3", "idx1")
    else:
        name = name.replace("labels", "images").replace("idx1", "idx3")
    fellows = [file.with_name(other) for other in (name, f"{name}.gz")]
    return [other for other in fellows if other.is_file() and other.name.removesuffix(".gz") != file.name.removesuffix(".gz")][
        :1
    ]


def _pair(images: Sequence[Path], labels: Sequence[Path], *, test: bool) -> Pair | None:
    ours = [[file for file in files if bool(_TEST.search(file.name)) == test] for files in (images, labels)]
    purpose = "to test with" if test else "to learn from"
    for kind, files in zip(("images", "labels"), ours, strict=True):
        if len(files) > 1:
            cause = f"two files of {kind} {purpose}: {files[0].name} and {files[1].name}"
            raise UsageError(cause, "name the files of one set: --data IMAGES --data LABELS")
    if ours[0] and ours[1]:
        return Pair(ours[0][0], ours[1][0])
    if ours[0] or ours[1]:
        missing, there = ("labels", ours[0][0]) if ours[0] else ("images", ours[1][0])
        raise UsageError(f"{there.name} has no file of {missing} with it", f"give both: --data IMAGES --data LABELS ({_MNIST})")
    return None
