"""Files in MNIST's format for tests."""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def idx_bytes(array: Bytes) -> bytes:
    """An IDX file of unsigned bytes."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(path: Path, array: Bytes, *, packed: bool = False) -> Path:
    """Write an IDX file, gzipped if `packed`."""
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    return path


def digit_images(count: int, side: int = 28, seed: int = 0) -> tuple[Bytes, Bytes]:
    """Images that can be told apart, and their labels: a bar whose height says the digit, with some noise."""
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.uint8) % 10
    images = random.integers(0, 60, (count, side, side), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top = int(label) * side // 10
        image[top : top + max(side // 10, 1)] = 255
    return images, labels


def write_set(folder: Path, prefix: str, count: int, *, side: int = 28, packed: bool = False) -> None:
    """A pair of files as MNIST names them. prefix: `train` or `t10k`."""
    folder.mkdir(exist_ok=True)
    images, labels = digit_images(count, side)
    suffix = ".gz" if packed else ""
    write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images, packed=packed)
    write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels, packed=packed)
