"""`olc sgd --check`: the gradient against finite differences and torch's autograd, a whole run against torch.optim.SGD.

The only module of the package that imports torch. Everything is in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional

from openllama_cli.sgd.config import SgdConfig
from openllama_cli.sgd.network import CrossEntropyCost, Matrix, Network, Samples
from openllama_cli.sgd.training import diverged

# Central differences err by about step², plus the rounding error of the cost divided by the step.
_STEP = 1e-5
# Each weight takes two forward passes: of a large network, a random sample is compared.
_MOST = 5000
# A perturbation that has grown a hundred thousand times means that rounding (1e-16) is about to show.
_PERTURBATION, _UNSTABLE = 1e-12, 1e-7


@dataclass(frozen=True)
class Comparison:
    """Two ways to compute the same numbers. numbers: how many. largest_difference: relative for numbers above 1."""

    what: str
    against: str
    numbers: int
    largest_difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether they agree; NaN does not."""
        return self.largest_difference <= self.tolerance


def check(training_data: Samples, config: SgdConfig) -> Iterator[Comparison]:
    """Make every comparison for the network and mini-batches that `config` describes; yields each once it is done.

    From then on torch has one thread.
    """
    # These matrices are too small to split: on a busy machine, threads that wait for each other take minutes.
    torch.set_num_threads(1)
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
    parameters = torch.tensor(network.parameters, requires_grad=True)
    (gradient,) = torch.autograd.grad(_cost(network, parameters, mini_batch), parameters)
    return Comparison("gradient", "torch autograd", len(gradient), _difference(network.nabla, gradient.numpy()), 1e-10)


def trajectory(training_data: Samples, config: SgdConfig) -> Iterator[Comparison]:
    """All weights and biases throughout a run against torch.optim.SGD, on the same mini-batches.

    Both start from the same weights and run independently for as long as that can be compared: rounding differences grow from
    step to step, in a long run until the weights have nothing in common. A third, slightly perturbed run shows when. From then
    on torch takes each step from our weights, as a separate comparison. Raises OlcError if the run diverges.
    """
    network, perturbed = (Network(config.sizes, config.cost, config.seed) for _ in range(2))
    perturbed.parameters += _PERTURBATION * np.random.default_rng(0).standard_normal(perturbed.parameters.size)
    theirs = torch.tensor(network.parameters, requires_grad=True)
    optimizer = torch.optim.SGD([theirs], lr=config.eta)
    # Independently, and from our weights.
    steps, largest = [0, 0], [0.0, 0.0]
    free = True
    for epoch in range(1, config.epochs + 1):
        for mini_batch in network.mini_batches(training_data, config.mini_batch_size):
            if not free:
                theirs.data.copy_(torch.from_numpy(network.parameters))
            network.update_mini_batch(mini_batch, config.eta)
            optimizer.zero_grad()
            # torch's step does not divide by the size of the mini-batch.
            (_cost(network, theirs, mini_batch) / len(mini_batch)).backward()
            optimizer.step()
            phase = 0 if free else 1
            steps[phase] += 1
            # max() would ignore NaN.
            largest[phase] = float(np.maximum(largest[phase], _difference(network.parameters, theirs.detach().numpy())))
            if free:
                perturbed.update_mini_batch(mini_batch, config.eta)
                free = _difference(network.parameters, perturbed.parameters) < _UNSTABLE
        if not np.isfinite(network.parameters).all():
            raise diverged(float("nan"), epoch, config)
    count = network.parameters.size
    yield Comparison(f"weights after each of {steps[0]:,} steps", "torch.optim.SGD", count, largest[0], 1e-8)
    if steps[1]:
        yield Comparison(f"each of {steps[1]:,} more steps by itself", "torch.optim.SGD", count, largest[1], 1e-10)


def _cost(network: Network, parameters: torch.Tensor, mini_batch: Samples) -> torch.Tensor:
    """The network's cost, summed over the mini-batch, by torch's own functions.

    parameters: biases and weights in the order of `Network.parameters`.
    """
    z, y = torch.from_numpy(mini_batch.x.astype(np.float64)), torch.from_numpy(mini_batch.y)
    start = 0
    for inputs, outputs in pairwise(network.sizes):
        b, w = torch.split(parameters[start : start + outputs * (1 + inputs)], [outputs, outputs * inputs])
        z = functional.linear(torch.sigmoid(z) if start else z, w.view(outputs, inputs), b)
        start += outputs * (1 + inputs)
    if network.cost is CrossEntropyCost:
        return functional.binary_cross_entropy_with_logits(z, y, reduction="sum")
    return functional.mse_loss(torch.sigmoid(z), y, reduction="sum") / 2


def _difference(ours: Matrix, theirs: Matrix) -> float:
    return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))).max())
