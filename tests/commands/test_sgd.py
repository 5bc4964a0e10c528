"""`olc sgd`: output to a pipe, a terminal and a file, and what is refused before any work."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.conftest import Olc
from tests.support.idx_files import write_set
from tests.support.terminals import on_a_terminal, without_color


def test_a_pipe_gets_a_line_for_each_epoch_and_nothing_else(olc: Olc) -> None:
    result = olc("sgd", "--epochs", "10", "--seed", "1")
    assert result.code == 0
    lines = result.text.splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"epoch  1: cost 0\.\d{4}, \d+ of 359 correct \(\d+\.\d%\)", lines[0])
    assert lines[-1].startswith("epoch 10: cost 0.0")
    assert "seed 1; the UCI digits: 1,438 images to train on, 359 to test with" in result.messages


def test_json_has_the_fields_that_are_promised_and_the_picture_is_saved(olc: Olc, tmp_path: Path) -> None:
    command = ["sgd", "--epochs", "3", "--json", "--sizes", "64,12,10", "--cost", "cross-entropy", "--eta", "0.5"]
    result = olc(*command, "--svg", str(tmp_path / "curves.svg"))
    assert result.code == 0
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert len(root.findall("{http://www.w3.org/2000/svg}g")) == 12
    document = json.loads(result.text)
    assert list(document) == ["sizes", "eta", "mini_batch_size", "cost", "seed", "epochs", "confusion"]
    assert (document["sizes"], document["eta"], document["mini_batch_size"]) == ([64, 12, 10], 0.5, 10)
    assert document["cost"] == "cross-entropy"
    assert [list(epoch) for epoch in document["epochs"]] == [["epoch", "cost", "correct", "total", "seconds"]] * 3
    assert sum(document["confusion"][digit][digit] for digit in range(10)) == document["epochs"][-1]["correct"]
    again = olc(*command, "--seed", str(document["seed"]))
    assert again.err == b""
    assert json.loads(again.text)["confusion"] == document["confusion"]


def test_the_check_passes_and_shows_each_largest_difference(olc: Olc) -> None:
    small = ("sgd", "--check", "--sizes", "64,10", "--mini-batch-size", "50")
    result = olc(*small, "--epochs", "2", "--seed", "1")
    assert result.code == 0, result.messages
    rows = [line.split("\t") for line in result.text.splitlines()]
    assert [row[1] for row in rows] == ["against", "finite differences", "torch autograd", "torch.optim.SGD"]
    assert all(row[-1] == "yes" and float(row[3]) < 1e-6 for row in rows[1:])
    result = olc(*small, "--epochs", "1", "--cost", "cross-entropy", "--json")
    document = json.loads(result.text)
    assert [one["ok"] for one in document["checks"]] == [True] * 3


def test_a_check_that_fails_ends_with_1(olc: Olc, monkeypatch: pytest.MonkeyPatch) -> None:
    from openllama_cli.sgd.network import QuadraticCost

    monkeypatch.setattr(QuadraticCost, "delta", staticmethod(lambda a, y: a - y))
    command = ["sgd", "--check", "--sizes", "64,10", "--epochs", "1", "--mini-batch-size", "50", "--seed", "1"]
    result = olc(*command)
    assert result.code == 1
    assert "NO" in result.text
    assert re.match(r"(olc: .*\n)?error: gradient and finite differences differ by up to .*\n  fix: .*\n$", result.messages)
    failed = olc(*command, "--json")
    assert (failed.code, json.loads(failed.text)["checks"][0]["ok"]) == (1, False)


def test_explain_walks_through_the_update(olc: Olc) -> None:
    result = olc("sgd", "--explain", "--seed", "1")
    assert result.code == 0
    titles = [line for line in result.text.splitlines() if line and not line.startswith(" ")]
    assert titles == [
        "The mini-batch: 10 images",
        "Forwards into layer 1",
        "Forwards into layer 2",
        "The cost",
        "Backwards out of layer 2",
        "Backwards out of layer 1",
        "The update",
        "Afterwards, the same mini-batch",
    ]


def test_mnist_files_have_their_own_default_sizes(olc: Olc, tmp_path: Path) -> None:
    write_set(tmp_path, "train", 200)
    write_set(tmp_path, "t10k", 50, packed=True)
    document = json.loads(olc("sgd", "--data", str(tmp_path), "--epochs", "20", "--seed", "1", "--json").text)
    assert document["sizes"] == [784, 30, 10]
    last = document["epochs"][-1]
    assert last["total"] == 50
    assert last["correct"] >= 45
    pair = [str(tmp_path / f"train-{name}-ubyte") for name in ("images-idx3", "labels-idx1")]
    split = json.loads(olc("sgd", "--data", pair[0], "--data", pair[1], "--epochs", "1", "--json").text)
    assert split["epochs"][0]["total"] == 40


@pytest.mark.parametrize("check", [False, True])
def test_a_run_that_diverges_ends_with_two_lines(olc: Olc, check: bool) -> None:
    result = olc("sgd", "--eta", "1e308", "--cost", "cross-entropy", "--seed", "1", "--json", *(["--check"] if check else []))
    assert (result.code, result.out) == (1, b"")
    assert result.messages == (
        "error: the cost is nan after epoch 1: with --eta 1e+308 the weights overflowed\n"
        "  fix: lower the learning rate: --eta 3\n"
    )


def test_accuracy_at_chance_is_said_once_and_ends_with_0(olc: Olc) -> None:
    result = olc("sgd", "--eta", "100", "--epochs", "8", "--seed", "1")
    assert result.code == 0
    assert len(result.text.splitlines()) == 8
    assert result.messages.count("hint: accuracy is at chance after 5 epochs") == 1
    assert "try --eta 3" in result.messages


@pytest.mark.parametrize("width", [60, 100])
def test_a_terminal_gets_curves_the_confusion_table_and_misread_digits(width: int) -> None:
    written = without_color(on_a_terminal("sgd", "--seed", "1", columns=width, stderr=False))
    lines = [line.rstrip() for line in written.splitlines()]
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    assert re.search(r"epoch 30/30  █+  took \d+\.\d s", text)
    assert re.search(r"3[45]\d of 359 correct", text)
    table = lines[lines.index("digit (row) read as (column)") + 1 :][:11]
    assert table[0].split() == [str(digit) for digit in range(10)]
    assert [line.split()[0] for line in table[1:]] == [str(digit) for digit in range(10)]
    assert re.search(r"\d as \d", text)
    assert "▀" * 8 in text


def test_without_color_digits_are_drawn_in_ink_and_paper() -> None:
    text = on_a_terminal("sgd", "--seed", "1", "--epochs", "2", columns=80, stderr=False, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*(3|4)8;", text)
    drawn = without_color(text).split("(digit as answer)")[1]
    assert {"▀", "▄", "█", " "} <= set(drawn)
