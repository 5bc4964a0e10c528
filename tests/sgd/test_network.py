"""The network itself: its arithmetic, its seed, and whether it learns."""

import warnings
from pathlib import Path

import numpy as np
import pytest

import openllama_cli.sgd.network
from openllama_cli.benchmark.sgd import as_columns, update_mini_batch
from openllama_cli.sgd.config import SgdConfig
from openllama_cli.sgd.digits import prepare, read_digits
from openllama_cli.sgd.network import CrossEntropyCost, Network, Samples, sigmoid

DEFAULTS = SgdConfig(seed=1)


def samples(count: int, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return Samples(random.random((count, 6)), np.eye(3)[random.integers(0, 3, count)])


def test_it_can_be_read_in_one_sitting() -> None:
    file = openllama_cli.sgd.network.__file__
    assert file is not None
    text = Path(file).read_text()
    assert len(text.splitlines()) <= 150
    assert "print" not in text


def test_one_neuron_gives_what_the_formulas_give() -> None:
    network = Network([2, 1])
    network.weights[0][:] = [[0.5, -1.0]]
    network.biases[0][:] = [[0.25]]
    z = 0.5 * 0.8 - 1.0 * 0.3 + 0.25
    a = 1 / (1 + np.exp(-z))
    x, y = np.array([[0.8], [0.3]]), np.array([[1.0]])
    cost, output = network.evaluate(Samples(x.T, y.T))
    assert output[0, 0] == pytest.approx(a)
    assert cost == pytest.approx((a - 1) ** 2 / 2)
    nabla_b, nabla_w = network.backprop(x, y)
    delta = (a - 1) * a * (1 - a)
    assert nabla_b[0][0, 0] == pytest.approx(delta)
    assert nabla_w[0][0] == pytest.approx([delta * 0.8, delta * 0.3])


def test_cross_entropy_is_what_its_formula_says_and_stays_finite_where_that_does_not() -> None:
    z, y = np.array([[-2.0, 0.5], [1.0, 3.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    a = sigmoid(z)
    assert CrossEntropyCost.fn(z, y) == pytest.approx(float(-(y * np.log(a) + (1 - y) * np.log(1 - a)).sum()))
    assert CrossEntropyCost.fn(np.array([[-800.0]]), np.array([[1.0]])) == pytest.approx(800)


def test_the_sigmoid_of_any_number_warns_of_nothing() -> None:
    with warnings.catch_warnings(action="error"):
        assert sigmoid(np.array([-1e308, -1000.0, 0.0, 1000.0, 1e308])).tolist() == [0, 0, 0.5, 1, 1]


def test_samples_together_move_the_weights_as_one_after_another() -> None:
    together, single, mini_batch = Network([6, 5, 4, 3], seed=2), Network([6, 5, 4, 3], seed=2), samples(11)
    for _ in range(20):
        together.update_mini_batch(mini_batch, 3.0)
        update_mini_batch(single, as_columns(mini_batch), 3.0)
    for ours, theirs in zip(together.weights + together.biases, single.weights + single.biases, strict=True):
        assert np.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_every_epoch_takes_every_sample_once_in_another_order() -> None:
    data = Samples(np.arange(23.0).reshape(-1, 1), np.zeros((23, 1)))
    network = Network([1, 1], seed=0)
    rounds = []
    for _ in range(2):
        parts = list(network.mini_batches(data, 5))
        assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
        rounds.append([value for part in parts for value in part.x[:, 0].tolist()])
    assert sorted(rounds[0]) == sorted(rounds[1]) == list(range(23))
    assert rounds[0] != rounds[1]


def test_a_seed_gives_the_same_run_again_and_another_seed_another() -> None:
    one, again, other = (Network([6, 4, 3], seed=seed) for seed in (5, 5, 6))
    for network in (one, again, other):
        assert list(network.SGD(samples(30), 3, 4, 3.0)) == [1, 2, 3]
    assert np.array_equal(one.parameters, again.parameters)
    assert not np.array_equal(one.parameters, other.parameters)


@pytest.mark.parametrize(("cost", "eta"), [("quadratic", DEFAULTS.eta), ("cross-entropy", 0.5)])
def test_seeds_read_95_percent_of_the_held_out_digits_on_average(cost: str, eta: float) -> None:
    training_data, test_data = prepare(read_digits())
    answers = test_data.y.argmax(axis=1)
    shares = []
    for seed in (1, 2):
        network = Network(DEFAULTS.sizes, cost, seed)
        for _ in network.SGD(training_data, DEFAULTS.epochs, DEFAULTS.mini_batch_size, eta):
            pass
        shares.append(float((network.evaluate(test_data)[1].argmax(axis=1) == answers).mean()))
    assert np.mean(shares) >= 0.95, shares
