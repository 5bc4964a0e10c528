"""The comparisons agree for a right network, and each notices a wrong one."""

import numpy as np
import pytest

from openllama_cli.sgd import check as checks
from openllama_cli.sgd.config import SgdConfig
from openllama_cli.sgd.network import Network, QuadraticCost, Samples


def samples(count: int = 25) -> Samples:
    random = np.random.default_rng(0)
    return Samples(random.random((count, 8)).astype(np.float32), np.eye(4)[random.integers(0, 4, count)])


@pytest.mark.parametrize("cost", ["quadratic", "cross-entropy"])
@pytest.mark.parametrize("sizes", [(8, 4), (8, 5, 4), (8, 6, 5, 4)])
def test_the_network_agrees_with_finite_differences_and_torch(cost: str, sizes: tuple[int, ...]) -> None:
    found = list(checks.check(samples(), SgdConfig(sizes=sizes, cost=cost, epochs=3, mini_batch_size=4, seed=3)))
    assert [one.against for one in found] == ["finite differences", "torch autograd", "torch.optim.SGD"]
    assert found[2].what == "weights after each of 21 steps"
    for one in found:
        assert one.ok, one
        assert one.largest_difference < one.tolerance / 10
        assert one.numbers == Network(sizes).parameters.size


def test_a_wrong_gradient_is_noticed_by_every_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    right = QuadraticCost.delta
    monkeypatch.setattr(QuadraticCost, "delta", staticmethod(lambda a, y: right(a, y) * 1.001))
    found = list(checks.check(samples(), SgdConfig(sizes=(8, 5, 4), epochs=2, mini_batch_size=4, seed=3)))
    assert [one.ok for one in found] == [False] * 3
    assert not checks.Comparison("gradient", "torch", 1, float("nan"), 1.0).ok


@pytest.mark.parametrize("unstable", [1e-7, 0.0])
def test_a_step_of_the_wrong_size_is_noticed_on_the_way(monkeypatch: pytest.MonkeyPatch, unstable: float) -> None:
    right = Network.update_mini_batch
    monkeypatch.setattr(checks, "_UNSTABLE", unstable)
    monkeypatch.setattr(Network, "update_mini_batch", lambda self, part, eta: right(self, part, eta * 1.00001))
    found = list(checks.trajectory(samples(), SgdConfig(sizes=(8, 5, 4), epochs=2, mini_batch_size=4, seed=3)))
    assert not any(one.ok for one in found)


def test_where_rounding_would_decide_each_step_is_compared_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if a nudge had grown so far after one step.
    monkeypatch.setattr(checks, "_UNSTABLE", 0.0)
    side_by_side, alone = checks.trajectory(samples(), SgdConfig(sizes=(8, 5, 4), epochs=3, mini_batch_size=4, seed=3))
    assert (side_by_side.what, alone.what) == ("weights after each of 1 steps", "each of 20 more steps by itself")
    assert side_by_side.ok
    assert alone.ok


def test_a_large_network_is_sampled_for_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_MOST", 50)
    network = Network((8, 5, 4), seed=3)
    before = network.parameters.copy()
    found = checks.finite_differences(network, samples()[:4])
    assert found.numbers == 50 < network.parameters.size
    assert found.ok
    assert np.array_equal(before, network.parameters)
