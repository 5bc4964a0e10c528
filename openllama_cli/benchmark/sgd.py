"""How much faster a mini-batch is as one matrix than sample by sample: `python -m openllama_cli.benchmark.sgd`.

Both versions train on the same digits in the same process, epoch by epoch in turn. The fastest epoch of each is compared, in
processor time, which other work on the machine affects least. An epoch is what a run prints a line for: every mini-batch,
then the cost of the training data and the accuracy on the test data. The version of one sample at a time is written as in
chapter 1 of Nielsen's book. Prints one line of JSON.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openllama_cli.sgd.config import CLASSES, SgdConfig, one_thread
from openllama_cli.sgd.digits import prepare, read_digits

if __name__ == "__main__":
    one_thread()  # before numpy is imported

import numpy as np

from openllama_cli.sgd.network import Matrix, Network, Samples
from openllama_cli.sgd.training import evaluate

# x and y of one sample, both columns.
Sample = tuple[Matrix, Matrix]


def measure(paths: Sequence[Path], epochs: int, seed: int) -> dict[str, Any]:
    """Seconds of the fastest epoch of each version, with and without the evaluation, and their ratios."""
    digits = read_digits(paths)
    training_data, test_data = prepare(digits)
    config = SgdConfig(sizes=(digits.pixels, 30, CLASSES), seed=seed)
    matrices, one = (Network(config.sizes, config.cost, config.seed) for _ in range(2))
    samples, test_samples = as_columns(training_data), as_columns(test_data)
    times: list[tuple[float, ...]] = []
    for _ in range(epochs):
        clock = [time.process_time()]
        for _epoch in matrices.SGD(training_data, 1, config.mini_batch_size, config.eta):
            clock.append(time.process_time())
        cost, _ = evaluate(matrices, training_data)
        evaluate(matrices, test_data)
        clock.append(time.process_time())
        order = one.rng.permutation(len(samples))
        for k in range(0, len(order), config.mini_batch_size):
            update_mini_batch(one, [samples[place] for place in order[k : k + config.mini_batch_size]], config.eta)
        clock.append(time.process_time())
        slow_cost = mean_cost(one, samples)
        mean_cost(one, test_samples)
        clock.append(time.process_time())
        # The same arithmetic, or the comparison means nothing. Only after the first epoch: rounding grows with the steps.
        assert times or abs(cost - slow_cost) <= 1e-3 * slow_cost, (cost, slow_cost)
        times.append((clock[1] - clock[0], clock[2] - clock[0], clock[3] - clock[2], clock[4] - clock[2]))
    learning, epoch, slow_learning, slow_epoch = (min(column) for column in zip(*times, strict=True))
    return {
        "data": digits.name,
        "sizes": list(config.sizes),
        "mini_batch_size": config.mini_batch_size,
        "epochs": epochs,
        "epoch_s": round(epoch, 6),
        "one_at_a_time_epoch_s": round(slow_epoch, 6),
        "times_faster": round(slow_epoch / epoch, 2),
        "learning_s": round(learning, 6),
        "one_at_a_time_learning_s": round(slow_learning, 6),
        "times_faster_learning": round(slow_learning / learning, 2),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "machine": platform.machine(),
    }


def as_columns(data: Samples) -> list[Sample]:
    """A list of samples as the book has them, x and y as columns."""
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
    """A step of gradient descent whose gradient is summed sample by sample."""
    nabla_b = [np.zeros(b.shape) for b in network.biases]
    nabla_w = [np.zeros(w.shape) for w in network.weights]
    for x, y in mini_batch:
        delta_nabla_b, delta_nabla_w = _backprop(network, x, y)
        nabla_b = [nb + more for nb, more in zip(nabla_b, delta_nabla_b, strict=True)]
        nabla_w = [nw + more for nw, more in zip(nabla_w, delta_nabla_w, strict=True)]
    network.weights = [w - (eta / len(mini_batch)) * nw for w, nw in zip(network.weights, nabla_w, strict=True)]
    network.biases = [b - (eta / len(mini_batch)) * nb for b, nb in zip(network.biases, nabla_b, strict=True)]


def _backprop(network: Network, x: Matrix, y: Matrix) -> tuple[list[Matrix], list[Matrix]]:
    """The gradient of one sample's quadratic cost with respect to biases and weights."""
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
    """The mean quadratic cost, counting correct answers along the way, as an evaluation does."""
    cost, correct = 0.0, 0
    for x, y in samples:
        output = _forwards(network, x)[1][-1]
        cost += 0.5 * float(((output - y) ** 2).sum())
        correct += int(output.argmax() == y.argmax())
    return cost / len(samples)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.benchmark.sgd", description="Time mini-batches as matrices against one sample at a time."
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="files in MNIST's format, as for olc sgd")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each version (default: 20)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(measure(options.data, options.epochs, options.seed)))


if __name__ == "__main__":
    main()
