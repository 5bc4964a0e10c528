"""A feed-forward network of sigmoid neurons that learns by mini-batch stochastic gradient descent (SGD).

The algorithm and its names are those of chapter 1 of Michael Nielsen's "Neural Networks and Deep Learning"
(http://neuralnetworksanddeeplearning.com). Two things differ. The samples of a mini-batch go through the network together,
as the columns of a matrix, so that a layer is one matmul instead of one per sample. And the initial weights are divided by
the square root of a neuron's number of inputs, as chapter 3 advises, so that neurons do not start saturated.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


class Samples:
    """Inputs and targets, one row per sample: x of shape (n, sizes[0]), y of shape (n, sizes[-1]), one-hot."""

    def __init__(self, x: NDArray[Any], y: Matrix) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: Any) -> "Samples":
        """Some of the samples: a slice, or an array of indices."""
        return Samples(self.x[which], self.y[which])


def sigmoid(z: Matrix) -> Matrix:
    """1 / (1 + exp(-z)), as (1 + tanh(z / 2)) / 2, which does not overflow."""
    a: Matrix = np.tanh(0.5 * z)
    a += 1.0
    a *= 0.5
    return a


def views(sizes: Sequence[int]) -> tuple[Matrix, list[Matrix], list[Matrix]]:
    """A vector for all biases and weights of a network, and each layer's biases and weights as views of it."""
    shapes = [(y, columns) for x, y in pairwise(sizes) for columns in (1, x)]
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    vector = np.zeros(ends[-1])
    parts = [part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), shapes, strict=True)]
    return vector, parts[::2], parts[1::2]


class QuadraticCost:
    """Half the squared distance between output and target."""

    @staticmethod
    def fn(z: Matrix, y: Matrix) -> float:
        """The cost of all columns together. z: the last layer's weighted input, whose sigmoid is the output."""
        return float(0.5 * np.sum((sigmoid(z) - y) ** 2))

    @staticmethod
    def delta(a: Matrix, y: Matrix) -> Matrix:
        """The derivative of `fn` by z, for a = sigmoid(z). It is small where a is near 0 or 1, even if that is wrong."""
        return (a - y) * (a - a * a)


class CrossEntropyCost:
    """-(y ln a + (1 - y) ln(1 - a)), summed over the outputs."""

    @staticmethod
    def fn(z: Matrix, y: Matrix) -> float:
        """The cost of all columns together, from z, since an output so sure that it rounds to 1 would give ln 0."""
        return float(np.sum(np.logaddexp(0.0, z) - y * z))

    @staticmethod
    def delta(a: Matrix, y: Matrix) -> Matrix:
        """The derivative of `fn` by z. The factor that makes saturated neurons slow to learn has canceled out."""
        return a - y


Cost = type[QuadraticCost] | type[CrossEntropyCost]
COSTS: dict[str, Cost] = {"quadratic": QuadraticCost, "cross-entropy": CrossEntropyCost}


class Network:
    """Layers of `sizes` neurons, the first being the input. The same seed gives the same weights and mini-batches.

    weights[l] has one row per neuron of a layer and one column per input; biases[l] is a column. They are views of one vector,
    `parameters`, as nabla_w and nabla_b are of `nabla`: one line of arithmetic updates them all.
    """

    def __init__(self, sizes: Sequence[int], cost: str = "quadratic", seed: int | None = None) -> None:
        self.sizes, self.cost = list(sizes), COSTS[cost]
        self.rng = np.random.default_rng(seed)
        self.parameters, self.biases, self.weights = views(sizes)
        self.nabla, self.nabla_b, self.nabla_w = views(sizes)
        for b, w in zip(self.biases, self.weights, strict=True):
            b[:] = self.rng.standard_normal(b.shape)
            w[:] = self.rng.standard_normal(w.shape) / np.sqrt(w.shape[1])

    def feedforward(self, x: Matrix) -> tuple[list[Matrix], Matrix]:
        """The activations of every layer for the columns of x, input first; and the last layer's weighted input z."""
        activations, z = [x], x
        for b, w in zip(self.biases, self.weights, strict=True):
            z = w.dot(activations[-1]) + b
            activations.append(sigmoid(z))
        return activations, z

    def SGD(self, training_data: Samples, epochs: int, mini_batch_size: int, eta: float) -> Iterator[int]:  # noqa: N802
        """Train on all of the data `epochs` times; yields the number of each epoch, from 1, once it is done.

        eta: the learning rate, the length of a step relative to the gradient.
        """
        for epoch in range(1, epochs + 1):
            for mini_batch in self.mini_batches(training_data, mini_batch_size):
                self.update_mini_batch(mini_batch, eta)
            yield epoch

    def mini_batches(self, training_data: Samples, mini_batch_size: int) -> Iterator[Samples]:
        """The training data in a new random order, in parts of `mini_batch_size`; the last may be smaller."""
        shuffled = training_data[self.rng.permutation(len(training_data))]
        for k in range(0, len(shuffled), mini_batch_size):
            yield shuffled[k : k + mini_batch_size]

    def update_mini_batch(self, mini_batch: Samples, eta: float) -> None:
        """One step downhill: each weight w becomes w - (eta / len(mini_batch)) * nabla_w, and each bias likewise."""
        self.backprop(mini_batch.x.T, mini_batch.y.T)
        self.parameters -= (eta / len(mini_batch)) * self.nabla

    def backprop(self, x: Matrix, y: Matrix) -> tuple[list[Matrix], list[Matrix]]:
        """(nabla_b, nabla_w): the gradient of the cost of all columns of x and y together, shaped like biases and weights.

        delta is the derivative of the cost by a layer's z, one column per sample. It is known at the last layer, and each layer
        passes it back to the one before through its weights. The next call overwrites what this one returns.
        """
        activations, _ = self.feedforward(x)
        delta = self.cost.delta(activations[-1], y)
        ones = np.ones((x.shape[1], 1))
        for layer in range(len(self.weights) - 1, -1, -1):
            a = activations[layer]
            # Both matmuls sum over the samples.
            delta.dot(ones, out=self.nabla_b[layer])
            delta.dot(a.T, out=self.nabla_w[layer])
            if layer > 0:
                delta = self.weights[layer].T.dot(delta) * (a - a * a)
        return self.nabla_b, self.nabla_w

    def evaluate(self, data: Samples) -> tuple[float, Matrix]:
        """The mean cost per sample, and the outputs, one row per sample. The answer is the index of the largest output."""
        activations, z = self.feedforward(data.x.T)
        return self.cost.fn(z, data.y.T) / len(data), activations[-1].T
