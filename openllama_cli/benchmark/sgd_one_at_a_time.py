"""The same learning, one sample after another, as chapter 1 of the book writes it: what `benchmark` compares with."""

import numpy as np

from openllama_cli.sgd.network import Matrix, Network, Samples

# An input and a wanted output, both columns.
Sample = tuple[Matrix, Matrix]


def as_columns(data: Samples) -> list[Sample]:
    """A list of samples as the book has them."""
    return [(x.reshape(-1, 1).astype(np.float64), y.reshape(-1, 1)) for x, y in zip(data.x, data.y, strict=True)]


def _sigmoid(z: Matrix) -> Matrix:
    result: Matrix = 1.0 / (1.0 + np.exp(-z))
    return result


def _sigmoid_prime(z: Matrix) -> Matrix:
    return _sigmoid(z) * (1 - _sigmoid(z))


def _forwards(network: Network, x: Matrix) -> tuple[list[Matrix], list[Matrix]]:
    """The weighted inputs and the activations of every layer for one sample."""
    zs, activations = [], [x]
    for b, w in zip(network.biases, network.weights, strict=True):
        zs.append(np.dot(w, activations[-1]) + b)
        activations.append(_sigmoid(zs[-1]))
    return zs, activations


def update_mini_batch(network: Network, mini_batch: list[Sample], eta: float) -> None:
    """A step of gradient descent whose gradient is added up sample by sample."""
    nabla_b = [np.zeros(b.shape) for b in network.biases]
    nabla_w = [np.zeros(w.shape) for w in network.weights]
    for x, y in mini_batch:
        delta_nabla_b, delta_nabla_w = _backprop(network, x, y)
        nabla_b = [nb + more for nb, more in zip(nabla_b, delta_nabla_b, strict=True)]
        nabla_w = [nw + more for nw, more in zip(nabla_w, delta_nabla_w, strict=True)]
    network.weights = [w - (eta / len(mini_batch)) * nw for w, nw in zip(network.weights, nabla_w, strict=True)]
    network.biases = [b - (eta / len(mini_batch)) * nb for b, nb in zip(network.biases, nabla_b, strict=True)]


def _backprop(network: Network, x: Matrix, y: Matrix) -> tuple[list[Matrix], list[Matrix]]:
    """The gradient of one sample's quadratic cost by biases and by weights."""
    nabla_b = [np.zeros(b.shape) for b in network.biases]
    nabla_w = [np.zeros(w.shape) for w in network.weights]
    zs, activations = _forwards(network, x)
    delta = (activations[-1] - y) * _sigmoid_prime(zs[-1])
    for layer in range(len(network.weights) - 1, -1, -1):
        if layer < len(network.weights) - 1:
            delta = np.dot(network.weights[layer + 1].T, delta) * _sigmoid_prime(zs[layer])
        nabla_b[layer] = delta
        nabla_w[layer] = np.dot(delta, activations[layer].T)
    return nabla_b, nabla_w


def mean_cost(network: Network, samples: list[Sample]) -> float:
    """The mean quadratic cost, counting right answers on the way as an evaluation does."""
    cost, correct = 0.0, 0
    for x, y in samples:
        output = _forwards(network, x)[1][-1]
        cost += 0.5 * float(((output - y) ** 2).sum())
        correct += int(output.argmax() == y.argmax())
    return cost / len(samples)
