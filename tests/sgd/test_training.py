"""The settings of a run, its epochs and misread digits, and runs that diverge or do not learn."""

from typing import Any

import numpy as np
import pytest

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.sgd.config import COST_NAMES, SgdConfig, parse_sizes
from openllama_cli.sgd.digits import prepare, read_digits
from openllama_cli.sgd.network import Network, Samples
from openllama_cli.sgd.training import Epoch, confusion, evaluate, smaller, train, trouble


@pytest.fixture(scope="module")
def data() -> tuple[Samples, Samples]:
    return prepare(read_digits())


def run(data: tuple[Samples, Samples], config: SgdConfig) -> tuple[Network, list[Epoch], tuple[str, str] | None]:
    network = Network(config.sizes, config.cost, config.seed)
    epochs: list[Epoch] = []
    found = None
    for epoch in train(network, *data, config):
        epochs.append(epoch)
        found = found or trouble(network, data[1], epochs, config)
    return network, epochs, found


def test_the_cost_falls_and_nothing_is_said_of_a_good_run(data: tuple[Samples, Samples]) -> None:
    network, epochs, found = run(data, SgdConfig(epochs=6, seed=1))
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1].cost < epochs[0].cost / 2
    # Which is evaluated in parts.
    whole_cost, whole_outputs = network.evaluate(data[0])
    assert epochs[-1].cost == pytest.approx(whole_cost)
    assert np.allclose(evaluate(network, data[0])[1], whole_outputs)
    assert epochs[-1].total == 359
    assert all(epoch.seconds > 0 for epoch in epochs)
    assert found is None


def test_the_confusion_table_and_the_mistakes_agree_with_the_accuracy(data: tuple[Samples, Samples]) -> None:
    network, epochs, _ = run(data, SgdConfig(epochs=2, seed=1))
    counts, misread = confusion(network, data[1])
    last = epochs[-1]
    assert sum(counts[digit][digit] for digit in range(10)) == last.correct
    assert [sum(row) for row in counts] == data[1].y.sum(axis=0).tolist()
    assert len(misread) == last.total - last.correct > 0
    sure = []
    for place, label, answer in misread:
        output = network.evaluate(data[1][place : place + 1])[1][0]
        assert (label, answer) == (data[1].y[place].argmax(), output.argmax())
        sure.append(output.max())
    assert sure == pytest.approx(sorted(sure, reverse=True))


def test_a_cost_that_is_no_number_is_an_error_with_a_smaller_eta(data: tuple[Samples, Samples]) -> None:
    with pytest.raises(OlcError) as caught:
        run(data, SgdConfig(eta=1e308, cost="cross-entropy", epochs=3, seed=1))
    assert caught.value.code == "diverged"
    assert (smaller(3), smaller(0.5)) == (pytest.approx(0.3), pytest.approx(0.05))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        *((SgdConfig(eta=eta, cost=cost, epochs=5, seed=1), "too large") for eta in (100.0, 1e6) for cost in COST_NAMES),
        (SgdConfig(eta=1e-6, epochs=3, seed=1), "too small"),
        (SgdConfig(sizes=(64, 30, 30, 30, 30, 10), epochs=5, seed=1), "layers"),
    ],
    ids=lambda value: f"eta {value.eta:g}, {value.cost}" if isinstance(value, SgdConfig) else value,
)
def test_a_run_at_chance_is_noticed_with_its_reason(data: tuple[Samples, Samples], config: SgdConfig, said: str) -> None:
    _, epochs, found = run(data, config)
    assert found is not None
    assert f"at chance after {config.epochs} epochs ({epochs[-1].correct} of 359)" in found[0]
    assert said in found[0]
    assert (found[1] == "--eta 3") == (said == "too large")


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sizes", [(64,), (64, 0, 10), (64, 10**9, 10)]),
        ("epochs", [0]),
        ("mini_batch_size", [0]),
        ("eta", [0.0, float("nan"), float("inf")]),
        ("cost", ["hinge"]),
        ("seed", [-1]),
    ],
)
def test_a_wrong_value_names_its_flag(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}") as caught:
            SgdConfig(**{name: value})
        assert caught.value.remedy


def test_sizes_are_read_from_text() -> None:
    assert parse_sizes("784, 100,10") == (784, 100, 10)
    for text in ("", "64,", "64;10", "64,-3,10", "64,3.5,10", "٣,10", "9" * 5000):
        with pytest.raises(UsageError, match="--sizes"):
            parse_sizes(text)


def test_without_a_seed_each_run_has_its_own() -> None:
    assert SgdConfig().seed != SgdConfig().seed
