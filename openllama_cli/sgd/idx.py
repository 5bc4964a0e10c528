"""MNIST's IDX format, plain or gzipped: images and labels, checked before they are trusted.

A file is a magic number (two zero bytes, the type of the values, the number of dimensions), each dimension as a big-endian
32-bit number, and the values (http://yann.lecun.com/exdb/mnist/). Only unsigned bytes are read, in one dimension (labels)
or three (images); nothing is unpickled, and only the standard library is imported.
"""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openllama_cli.errors import OlcError, UsageError

_UNSIGNED_BYTE = 0x08
_TYPES = {0x09: "signed bytes", 0x0B: "16-bit integers", 0x0C: "32-bit integers", 0x0D: "floats", 0x0E: "doubles"}
LABELS, IMAGES = 1, 3
_KINDS = {LABELS: "labels", IMAGES: "images"}
# Eight times MNIST, and an image of one megapixel: anything larger is considered a damaged header.
MAX_BYTES = 400_000_000
MAX_SIDE = 1024
_AGAIN = "get the file again; olc sgd without --data uses the digits shipped with olc"


@dataclass(frozen=True)
class Images:
    """Grayscale images. pixels: count × rows × columns bytes, row by row."""

    count: int
    rows: int
    columns: int
    pixels: bytes


def dimensions(path: Path) -> int:
    """1 for a file of labels, 3 for one of images. Raises OlcError for other files, UsageError if it cannot be read."""
    with _opened(path) as read:
        return len(_header(path, read))


def read_images(path: Path) -> Images:
    """Read a file of images. Raises OlcError if it is not one, or damaged; UsageError if it cannot be read."""
    (count, rows, columns), pixels = _read(path, IMAGES)
    return Images(count, rows, columns, pixels)


def read_labels(path: Path) -> bytes:
    """Read a file of labels, one byte from 0 to 9 each. Raises as `read_images`."""
    _, labels = _read(path, LABELS)
    if max(labels) > 9:
        place = next(place for place, label in enumerate(labels) if label > 9)
        raise damaged(path, f"label {place + 1:,} is {labels[place]}, not a digit from 0 to 9")
    return labels


# What people have in place of MNIST's files, by the beginning of what is in them once unpacked.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"\x80[\x00-\x05]|\([dlt]p[0-9]|\(?[cdl\]}(]\S*\n?.{0,40}numpy", "a Python pickle, such as the book's mnist.pkl.gz"),
    (rb"PK\x03\x04.{26}[^\x00]*\.npy", "a NumPy archive (.npz)"),
    (rb"\x93NUMPY", "a NumPy array (.npy)"),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive"),
    (rb"\s*<(!doctype|html|\?xml|head|!--)", "a web page: the download saved a page in place of the file"),
    (rb"version https://git-lfs", "a Git LFS pointer"),
    (rb"PAR1", "a Parquet file"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"MATLAB 5", "a MATLAB file"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\x00{4}", "a picture"),
    (rb"\x1f\x8b", "compressed twice"),
    (rb"\xfd7zXZ|BZh|\x28\xb5\x2f\xfd|7z\xbc\xaf", "compressed in another way than gzip"),
    (rb".{257}ustar", "a tar archive"),
    (rb"\s*[\[{]", "JSON"),
    (rb"(label|[0-9]+)\s*[,;\t]", "a table of text (CSV)"),
)
_LOOK = 512
_TAKE = (
    "take MNIST's own train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz, and t10k-… to test with "
    "(nothing else is read, and no pickle is ever run); olc sgd without --data uses the digits shipped with olc"
)


def _not_idx(path: Path, start: bytes) -> OlcError:
    """The error of another file. start: its first bytes, unpacked."""
    for pattern, what in _OTHERS:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return damaged(path, f"not an IDX file, but {what}", _TAKE)
    return damaged(path, f"not an IDX file: it begins with {start[:4].hex(' ') or 'nothing'}, not with 00 00 08", _TAKE)


def damaged(path: Path, what: str, remedy: str = _AGAIN) -> OlcError:
    """The error for a file that cannot be used."""
    return OlcError(f"{path}: {what}", remedy, code="data")


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[int], bytes]]:
    """A function that reads so many bytes, decompressed; turns the errors of the system and gzip into ours."""
    if not path.is_file():
        what = "does not exist" if not path.exists() else "is not a regular file"
        raise UsageError(f"{path} {what}", "give a folder or files in MNIST's IDX format")
    try:
        raw = path.open("rb")
        # By content, since browsers and archives rename files.
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "give a readable file") from error
    with raw, gzip.GzipFile(fileobj=raw) if packed else raw as file:
        try:
            yield file.read
        except EOFError:
            raise damaged(path, "truncated: the compressed data does not end") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise damaged(path, f"damaged: {error}") from error
        except OSError as error:
            raise OlcError(f"cannot read {path}: {error.strerror}", "check the disk") from error


def _header(path: Path, read: Callable[[int], bytes]) -> Sequence[int]:
    """The dimensions, one or three."""
    magic = read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in {_UNSIGNED_BYTE, *_TYPES}:
        raise _not_idx(path, magic + read(_LOOK - len(magic)))
    if magic[2] != _UNSIGNED_BYTE:
        raise damaged(path, f"holds {_TYPES[magic[2]]}; only unsigned bytes are supported", "save it as unsigned bytes")
    count = magic[3]
    if count not in _KINDS:
        cause = f"has {count} dimensions; images have 3 and labels 1"
        raise damaged(path, cause, "save grayscale images as (images, rows, columns), labels as (images,)")
    sizes = read(4 * count)
    if len(sizes) < 4 * count:
        raise damaged(path, f"truncated within its header, after {4 + len(sizes)} bytes")
    return struct.unpack(f">{count}I", sizes)


def _read(path: Path, wanted: int) -> tuple[Sequence[int], bytes]:
    """The dimensions and all values of a file with `wanted` dimensions."""
    with _opened(path) as read:
        sizes = _header(path, read)
        shape = "×".join(f"{size:,}" for size in sizes)
        if len(sizes) != wanted:
            raise damaged(path, f"holds {_KINDS[len(sizes)]}, not {_KINDS[wanted]}", "give the other file of the pair")
        if 0 in sizes:
            raise damaged(path, f"its header says {shape}: it is empty")
        total = math.prod(sizes)
        if total > MAX_BYTES or max(sizes[1:], default=0) > MAX_SIDE:
            cause = f"its header says {shape}; the limit is {MAX_BYTES:,} bytes and {MAX_SIDE} pixels per side"
            raise damaged(path, cause)
        # One more than there should be and no more, however large a compressed file would become.
        values = read(total + 1)
        if len(values) < total:
            raise damaged(path, f"truncated: its header says {shape} = {total:,} bytes, but it has {len(values):,}")
        if len(values) > total:
            raise damaged(path, f"longer than the {shape} = {total:,} bytes that its header says")
    return sizes, values
