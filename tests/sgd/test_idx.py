"""IDX files: read as they are; damaged, hostile and other files are refused in two lines."""

import gzip
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.sgd.idx import read_images, read_labels
from tests.support.idx_files import digit_images, idx_bytes, write_idx

IMAGES, LABELS = digit_images(12, side=5)
IMAGE_BYTES, LABEL_BYTES = idx_bytes(IMAGES), idx_bytes(LABELS)


def refused(path: Path, data: bytes, *, labels: bool = False) -> OlcError:
    path.write_bytes(data)
    with pytest.raises(OlcError) as caught:
        read_labels(path) if labels else read_images(path)
    error = caught.value
    assert error.exit_code == 1
    assert path.name in error.cause
    assert "\n" not in error.cause + error.remedy
    assert error.remedy
    return error


@pytest.mark.parametrize("packed", [False, True])
def test_what_was_written_is_read(tmp_path: Path, packed: bool) -> None:
    # Without .gz in its name: the content says what it is.
    images = read_images(write_idx(tmp_path / "images", IMAGES, packed=packed))
    assert (images.count, images.rows, images.columns) == IMAGES.shape
    assert images.pixels == IMAGES.tobytes()
    assert read_labels(write_idx(tmp_path / "labels", LABELS, packed=packed)) == LABELS.tobytes()


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(IMAGE_BYTES)
    for length in range(0, len(IMAGE_BYTES), 5):
        refused(tmp_path / "cut", IMAGE_BYTES[:length])
        refused(tmp_path / "cut and packed", gzip.compress(IMAGE_BYTES[:length]))
    for length in range(2, len(packed), 5):
        refused(tmp_path / "cut.gz", packed[:length])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    data=st.binary(max_size=60),
    labels=st.booleans(),
    start=st.sampled_from([b"", b"\0\0\x08\x03", b"\0\0\x08\x01", b"\x1f\x8b"]),
)
def test_any_bytes_are_read_or_refused_as_expected(tmp_path: Path, data: bytes, labels: bool, start: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(start + data)
    try:
        content = read_labels(path) if labels else read_images(path).pixels
    except OlcError:
        return
    assert (start + data).endswith(content)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "begins with nothing"),
        (b"P5 28 28 255 ", "not an IDX file"),
        (pickle.dumps([1, 2, 3]), "not an IDX file"),
        (b"\0\0\x0d\x03" + bytes(12), "holds floats"),
        (b"\0\0\x08\x02" + bytes(12), "has 2 dimensions"),
        (LABEL_BYTES, "holds labels, not images"),
        (b"\0\0\x08\x03" + struct.pack(">III", 0, 28, 28), "it is empty"),
        (b"\0\0\x08\x03" + struct.pack(">III", 2**32 - 1, 2**32 - 1, 2**32 - 1), "the limit is"),
        (b"\0\0\x08\x03" + struct.pack(">III", 60000, 28, 28), "truncated: its header says 60,000×28×28 = 47,040,000 bytes"),
        (IMAGE_BYTES + b"\0", "longer than the 12×5×5 = 300 bytes"),
        (gzip.compress(IMAGE_BYTES)[:-8] + bytes(8), "damaged: CRC check failed"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, words: str) -> None:
    assert words in refused(tmp_path / "x", data).cause


def test_a_label_that_is_not_a_digit_is_named_with_its_place(tmp_path: Path) -> None:
    bad = LABELS.copy()
    bad[7] = 10
    assert "label 8 is 10" in refused(tmp_path / "labels", idx_bytes(bad), labels=True).cause


def test_a_compressed_bomb_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx_bytes(np.zeros((1, 28, 28), np.uint8)))
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(OlcError, match="longer than"):
            read_images(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_what_is_not_a_file_is_wrong_usage(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(UsageError):
            read_images(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        *((pickle.dumps((IMAGES, LABELS), protocol), "pickle") for protocol in (0, 1, 2, 4, 5)),
        (gzip.compress(pickle.dumps((IMAGES, LABELS), 2)), "mnist.pkl.gz"),
        (b"\x93NUMPY\x01\x00", ".npy"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"label,1x1,1x2\n5,0,0\n", "CSV"),
        (b"5,0,0,0\n", "CSV"),
        (gzip.compress(gzip.compress(IMAGE_BYTES)), "twice"),
        (b"PAR1", "Parquet"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x89PNG\r\n", "picture"),
    ],
)
def test_what_people_have_instead_is_named_with_the_file_to_take(tmp_path: Path, data: bytes, what: str) -> None:
    error = refused(tmp_path / "digits", data)
    assert what in error.cause
    assert "train-images-idx3-ubyte.gz" in error.remedy


def test_an_npz_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=IMAGES, y_train=LABELS)
    assert ".npz" in refused(tmp_path / "digits", (tmp_path / "mnist.npz").read_bytes()).cause
