"""The digits shipped with olc and a user's own files: which belong together, and how they are split."""

from pathlib import Path

import numpy as np
import pytest

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.sgd.digits import prepare, read_digits
from tests.support.idx_files import digit_images, write_idx, write_set


def test_the_uci_digits_are_shipped_complete_and_every_fifth_image_of_each_is_held_out() -> None:
    digits = read_digits()
    assert (digits.train.images.count, digits.shape) == (1797, (8, 8))
    assert (min(digits.train.images.pixels), max(digits.train.images.pixels)) == (0, 16)
    counts = np.bincount(np.frombuffer(digits.train.labels, np.uint8)).tolist()
    # As the documentation of the data set counts them.
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    labels = digits.train.labels
    for digit in range(10):
        places = [place for place, label in enumerate(labels) if label == digit]
        assert [place in digits.held_out for place in places] == [k % 5 == 2 for k in range(len(places))]
    training_data, test_data = prepare(digits)
    assert (len(training_data), len(test_data)) == (1438, 359)
    assert (training_data.x.min(), training_data.x.max()) == (0, 1)
    rows = {row.tobytes() for row in training_data.x}
    assert not any(row.tobytes() in rows for row in test_data.x)


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_found_in_its_folder(tmp_path: Path, packed: bool) -> None:
    write_set(tmp_path, "train", 30, packed=packed)
    write_set(tmp_path, "t10k", 20, packed=packed)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "train-images.idx3-ubyte").mkdir()
    training_data, test_data = prepare(read_digits([tmp_path]))
    images, labels = digit_images(30)
    assert np.array_equal(training_data.x, images.reshape(30, -1) / 255)
    assert training_data.y.argmax(axis=1).tolist() == labels.tolist()
    assert len(test_data) == 20


def test_only_the_test_files_are_split_and_the_plain_ones_taken(tmp_path: Path) -> None:
    write_set(tmp_path, "t10k", 100)
    write_set(tmp_path, "t10k", 50, packed=True)
    training_data, test_data = prepare(read_digits([tmp_path]))
    assert (len(training_data), len(test_data)) == (80, 20)
    assert test_data.y.sum(axis=0).tolist() == [2] * 10


def test_the_counterpart_of_a_single_file_is_found_beside_it_and_others_by_their_content(tmp_path: Path) -> None:
    write_set(tmp_path, "train", 30, packed=True)
    write_set(tmp_path, "t10k", 40)
    by_images = read_digits([tmp_path / "train-images-idx3-ubyte.gz"])
    by_labels = read_digits([tmp_path / "train-labels-idx1-ubyte.gz"])
    assert by_images.train == by_labels.train
    assert (by_images.train.images.count, by_images.test) == (30, None)
    images, labels = digit_images(30)
    one, other = write_idx(tmp_path / "a", labels), write_idx(tmp_path / "b", images)
    assert read_digits([one, other]).train.images.count == 30


def test_large_sets_are_kept_in_half_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(read_digits())[0].x.dtype == np.float64
    monkeypatch.setattr("openllama_cli.sgd.digits._WIDE", 8 * 1797 * 64 - 1)
    assert prepare(read_digits())[0].x.dtype == np.float32


def test_sets_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    images, labels = digit_images(30)
    paths = [write_idx(tmp_path / "images", images), write_idx(tmp_path / "labels", labels[:29])]
    with pytest.raises(OlcError, match="29 labels for the 30 images"):
        read_digits(paths)
    write_set(tmp_path / "mixed", "train", 30, side=28)
    write_set(tmp_path / "mixed", "t10k", 30, side=8)
    with pytest.raises(UsageError, match="images of 8×8"):
        read_digits([tmp_path / "mixed"])
    write_set(tmp_path / "few", "t10k", 20)
    with pytest.raises(UsageError, match="too few"):
        read_digits([tmp_path / "few"])


def test_files_that_are_missing_or_too_many_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no IDX files"):
        read_digits([tmp_path])
    with pytest.raises(UsageError, match="does not exist"):
        read_digits([tmp_path / "nowhere"])
    write_set(tmp_path, "train", 30)
    lone = tmp_path / "train-images-idx3-ubyte"
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "elsewhere")
    for paths in ([lone], [tmp_path]):
        with pytest.raises(UsageError, match="no matching file of labels"):
            read_digits(paths)
    (tmp_path / "elsewhere").rename(tmp_path / "train-labels-idx1-ubyte")
    write_idx(tmp_path / "emnist-train-images-idx3-ubyte", digit_images(5)[0])
    with pytest.raises(UsageError, match="two files of images"):
        read_digits([tmp_path])
