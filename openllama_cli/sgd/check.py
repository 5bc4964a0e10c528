"""Is it right? The gradient against finite differences and torch's autograd, a whole run against torch.optim.SGD.

The only module of the package that imports torch. Everything is in 64-bit numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openllama_cli.sgd.config import SgdConfig
from openllama_cli.sgd.network import Matrix, Network, Samples

if TYPE_CHECKING:
    import torch

# Central differences of this step err by about step², and by the rounding of the cost divided by it.
_STEP = 1e-5
# Each weight takes two passes through the network: of a large one some are drawn.
_MOST = 5000


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same numbers. difference: the largest, relative where numbers are above 1. count: how many."""

    what: str
    against: str
    count: int
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether they agree; NaN does not."""
        return self.difference <= self.tolerance


def check(training_data: Samples, config: SgdConfig) -> Iterator[Comparison]:
    """Make every comparison with the network and the mini-batches that `config` gives, and yield each once it is done."""
    network = Network(config.sizes, config.cost, config.seed)
    mini_batch = next(network.mini_batches(training_data, config.mini_batch_size))
    with np.errstate(over="ignore", invalid="ignore"):
        yield finite_differences(network, mini_batch)
        yield autograd(network, mini_batch)
        yield trajectory(training_data, config)


def finite_differences(network: Network, mini_batch: Samples) -> Comparison:
    """The gradient against what the cost does when one weight or bias is moved a little to either side."""
    network.backprop(mini_batch.x.T, mini_batch.y.T)
    places = np.arange(network.parameters.size)
    if len(places) > _MOST:
        places = np.sort(np.random.default_rng(0).choice(places, _MOST, replace=False))
    slopes = np.empty(len(places))
    for k, place in enumerate(places):
        kept = network.parameters[place]
        network.parameters[place] = kept + _STEP
        above, _ = network.evaluate(mini_batch)
        network.parameters[place] = kept - _STEP
        below, _ = network.evaluate(mini_batch)
        network.parameters[place] = kept
        slopes[k] = (above - below) * len(mini_batch) / (2 * _STEP)
    largest = _difference(network.nabla[places], slopes)
    # The cost is a sum over the mini-batch, and its rounding grows with it.
    return Comparison("gradient", "finite differences", len(places), largest, 1e-8 * max(len(mini_batch), 10))


def autograd(network: Network, mini_batch: Samples) -> Comparison:
    """The gradient against torch's of the same cost."""
    network.backprop(mini_batch.x.T, mini_batch.y.T)
    twin = _Twin(network)
    with _one_thread():
        twin.cost(mini_batch).backward()  # type: ignore[no-untyped-call]
    gradient = np.concatenate([one.grad.numpy().ravel() for one in twin.parameters if one.grad is not None])
    return Comparison("gradient", "torch autograd", gradient.size, _difference(network.nabla, gradient), 1e-10)


def trajectory(training_data: Samples, config: SgdConfig) -> Comparison:
    """All weights and biases after every step of a whole run, against torch.optim.SGD on the same mini-batches."""
    import torch

    network = Network(config.sizes, config.cost, config.seed)
    twin = _Twin(network)
    optimizer = torch.optim.SGD(twin.parameters, lr=config.eta)
    largest, steps = 0.0, 0
    with _one_thread():
        for _ in range(config.epochs):
            for mini_batch in network.mini_batches(training_data, config.mini_batch_size):
                network.update_mini_batch(mini_batch, config.eta)
                optimizer.zero_grad()
                # torch's step has no mean of its own.
                (twin.cost(mini_batch) / len(mini_batch)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                theirs = np.concatenate([one.detach().numpy().ravel() for one in twin.parameters])
                # max() would let NaN go by.
                largest = float(np.maximum(largest, _difference(network.parameters, theirs)))
                steps += 1
    return Comparison(f"weights after each of {steps:,} steps", "torch.optim.SGD", network.parameters.size, largest, 1e-6)


@contextmanager
def _one_thread() -> Iterator[None]:
    """These matrices are too small to share: where others work too, threads that wait for each other take minutes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Twin:
    """The same network in torch, with the cost in torch's own functions."""

    def __init__(self, network: Network) -> None:
        import torch

        self._cross_entropy = network.cost.__name__ == "CrossEntropyCost"
        # In the order in which `Network.parameters` holds them.
        layers = zip(network.biases, network.weights, strict=True)
        self.parameters = [torch.tensor(one.copy(), requires_grad=True) for layer in layers for one in layer]

    def cost(self, mini_batch: Samples) -> "torch.Tensor":
        """The sum over the mini-batch."""
        import torch

        z = torch.from_numpy(mini_batch.x.astype(np.float64))
        y = torch.from_numpy(mini_batch.y)
        for layer, (b, w) in enumerate(zip(self.parameters[::2], self.parameters[1::2], strict=True)):
            z = torch.nn.functional.linear(z if layer == 0 else torch.sigmoid(z), w, b.squeeze(1))
        if self._cross_entropy:
            return torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="sum")
        return torch.nn.functional.mse_loss(torch.sigmoid(z), y, reduction="sum") / 2


def _difference(ours: Matrix, theirs: Matrix) -> float:
    return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))).max())
