"""The walk through one update: its sums come out, and it ends where the update does."""

import re

import numpy as np
import pytest

from openllama_cli.sgd.digits import prepare, read_digits
from openllama_cli.sgd.explain import explain
from openllama_cli.sgd.network import Network, Samples


@pytest.fixture(scope="module")
def training_data() -> Samples:
    return prepare(read_digits())[0]


def walk(data: Samples, sizes: tuple[int, ...], cost: str, count: int, eta: float = 3.0) -> tuple[list[str], Network]:
    network = Network(sizes, cost, seed=1)
    steps = explain(network, next(network.mini_batches(data, count)), eta)
    lines = [line for title, lines in steps for line in (title, *lines)]
    assert "\n" not in "".join(lines)
    return lines, network


@pytest.mark.parametrize(
    ("cost", "sizes", "count"),
    [
        ("quadratic", (64, 10), 10),
        ("cross-entropy", (64, 10), 1),
        ("cross-entropy", (64, 10, 10), 10),
        ("quadratic", (64, 9, 8, 10), 1),
        ("cross-entropy", (64, 9, 8, 10), 10),
    ],
)
def test_every_sum_that_is_written_out_comes_out(training_data: Samples, cost: str, sizes: tuple[int, ...], count: int) -> None:
    lines, _ = walk(training_data, sizes, cost, count)
    sums = 0
    for line in lines:
        found = re.fullmatch(r"(?:.*: )?([-½(ln\d].*) = (-?[\d.e-]+)", line)
        if found is None or "more terms" in line or "len(" in line:
            continue
        text = re.sub(r"ln ([\d.e-]+)", r"np.log(\1)", found[1]).replace("½ ", "0.5*").replace("²", "**2").replace("·", "*")
        # Its numbers are rounded to four digits.
        assert eval(text, {"np": np}) == pytest.approx(float(found[2]), rel=0.01, abs=0.002), line
        sums += 1
    # The cost; of each layer delta, nabla_b, nabla_w, and the new weight and bias.
    assert sums >= 1 + 4 * (len(sizes) - 1)


def test_the_numbers_are_those_of_the_update_and_shapes_stand_beside_every_matrix(training_data: Samples) -> None:
    lines, explained = walk(training_data, (64, 30, 10), "quadratic", 10)
    network = Network((64, 30, 10), seed=1)
    before = [w.copy() for w in network.weights]
    first = next(network.mini_batches(training_data, 10))
    network.update_mini_batch(first, 3.0)
    assert lines[1].endswith(f"which show {' '.join(map(str, first.y.argmax(axis=1)))}")
    assert np.array_equal(network.parameters, explained.parameters)
    updates = [re.fullmatch(r"layer (\d): weight \[(\d+), (\d+)\] of .*: (\S+) - .* = (\S+)", line) for line in lines]
    found = [match for match in updates if match is not None]
    assert [match[1] for match in found] == ["1", "2"]
    for match in found:
        layer, j, k = (int(match[group]) for group in (1, 2, 3))
        assert float(match[4]) == pytest.approx(before[layer - 1][j, k], rel=1e-3)
        assert float(match[5]) == pytest.approx(network.weights[layer - 1][j, k], rel=1e-3)

    text = "\n".join(lines)
    for shapes in (
        "(30, 64) · (64, 10) + (30, 1) = (30, 10)",
        "(10, 30) · (30, 10) + (10, 1) = (10, 10)",
        "(30, 10) · (10, 10) = (30, 10)",
        "(30, 10) · (10, 64) = (30, 64)",
        "eta / len(mini_batch) = 3 / 10 = 0.3",
        "all 2,260 weights and biases",
    ):
        assert shapes in text
