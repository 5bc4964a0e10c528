"""`olc sgd --check`: the gradient against finite differences and torch's autograd, a whole run against torch.optim.SGD.

The only module of the package that imports torch. Everything is in float64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openllama_cli.sgd.config import SgdConfig
from openllama_cli.sgd.network import Matrix, Network, Samples
from openllama_cli.sgd.training import diverged

if TYPE_CHECKING:
    import torch

# Central differences err by about step², plus the rounding error of the cost divided by the step.
_STEP = 1e-5
# Each weight takes two forward passes: of a large network, a random sample is compared.
_MOST = 5000
# A perturbation that has grown a hundred thousand times means that rounding (1e-16) is about to show.
_PERTURBATION, _UNSTABLE = 1e-12, 1e-7


@dataclass(frozen=True)
class Comparison:
    """Two ways to compute the same numbers. difference: the largest, relative for numbers above 1. count: how many."""

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
    """Make every comparison for the network and mini-batches that `config` describes; yields each once it is done."""
    network = Network(config.sizes, config.cost, config.seed)
    mini_batch = next(network.mini_batches(training_data, config.mini_batch_size))
    with np.errstate(over="ignore", invalid="ignore"):
        yield finite_differences(network, mini_batch)
        yield autograd(network, mini_batch)
        yield from trajectory(training_data, config)


def finite_differences(network: Network, mini_batch: Samples) -> Comparison:
    """The gradient against the change of the cost when one weight or bias moves a little in either direction."""
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
    # The cost is a sum over the mini-batch, and its rounding error grows with it.
    return Comparison("gradient", "finite differences", len(places), largest, 1e-8 * max(len(mini_batch), 10))


def autograd(network: Network, mini_batch: Samples) -> Comparison:
    """The gradient against torch's gradient of the same cost."""
    network.backprop(mini_batch.x.T, mini_batch.y.T)
    twin = _Twin(network)
    with _one_thread():
        twin.cost(mini_batch).backward()  # type: ignore[no-untyped-call]
    gradient = np.concatenate([one.grad.numpy().ravel() for one in twin.parameters if one.grad is not None])
    return Comparison("gradient", "torch autograd", gradient.size, _difference(network.nabla, gradient), 1e-10)


def trajectory(training_data: Samples, config: SgdConfig) -> Iterator[Comparison]:
    """All weights and biases throughout a run against torch.optim.SGD, on the same mini-batches.

    Both start from the same weights and run independently for as long as that can be compared: rounding differences grow from
    step to step, in a long run until the weights have nothing in common. A third, slightly perturbed run shows when. From then
    on torch takes each step from our weights, as a separate comparison. Raises OlcError if the run diverges.
    """
    import torch

    network, perturbed = (Network(config.sizes, config.cost, config.seed) for _ in range(2))
    perturbed.parameters += _PERTURBATION * np.random.default_rng(0).standard_normal(perturbed.parameters.size)
    twin = _Twin(network)
    optimizer = torch.optim.SGD(twin.parameters, lr=config.eta)
    # Independently, and from our weights.
    steps, largest = [0, 0], [0.0, 0.0]
    free = True
    with _one_thread():
        for epoch in range(1, config.epochs + 1):
            for mini_batch in network.mini_batches(training_data, config.mini_batch_size):
                if not free:
                    twin.copy(network)
                network.update_mini_batch(mini_batch, config.eta)
                optimizer.zero_grad()
                # torch's step does not divide by the size of the mini-batch.
                (twin.cost(mini_batch) / len(mini_batch)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                phase = 0 if free else 1
                steps[phase] += 1
                # max() would ignore NaN.
                largest[phase] = float(np.maximum(largest[phase], _difference(network.parameters, twin.values())))
                if free:
                    perturbed.update_mini_batch(mini_batch, config.eta)
                    free = _difference(network.parameters, perturbed.parameters) < _UNSTABLE
            if not np.isfinite(network.parameters).all():
                raise diverged(float("nan"), epoch, config)
    count = network.parameters.size
    yield Comparison(f"weights after each of {steps[0]:,} steps", "torch.optim.SGD", count, largest[0], 1e-8)
    if steps[1]:
        yield Comparison(f"each of {steps[1]:,} more steps by itself", "torch.optim.SGD", count, largest[1], 1e-10)


@contextmanager
def _one_thread() -> Iterator[None]:
    """These matrices are too small to split: on a busy machine, threads that wait for each other take minutes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Twin:
    """The same network in torch, with the cost computed by torch's own functions."""

    def __init__(self, network: Network) -> None:
        import torch

        self._cross_entropy = network.cost.__name__ == "CrossEntropyCost"
        # In the order in which `Network.parameters` holds them.
        layers = zip(network.biases, network.weights, strict=True)
        self.parameters = [torch.tensor(one.copy(), requires_grad=True) for layer in layers for one in layer]

    def copy(self, network: Network) -> None:
        """Copy the network's weights."""
        import torch

        layers = zip(network.biases, network.weights, strict=True)
        with torch.no_grad():
            for mine, one in zip(self.parameters, (one for layer in layers for one in layer), strict=True):
                mine.copy_(torch.from_numpy(one))

    def values(self) -> Matrix:
        """All weights and biases in the order of `Network.parameters`."""
        return np.concatenate([one.detach().numpy().ravel() for one in self.parameters])

    def cost(self, mini_batch: Samples) -> "torch.Tensor":
        """The cost, summed over the mini-batch."""
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
