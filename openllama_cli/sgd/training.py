"""Training epoch by epoch with its results, and runs that diverge or do not learn."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openllama_cli.errors import OlcError
from openllama_cli.sgd.config import SgdConfig
from openllama_cli.sgd.network import Matrix, Network, Samples

# Images per evaluation step: bounds the memory.
_AT_ONCE = 1000
_PATIENCE = 5
_STUCK = 3


@dataclass(frozen=True)
class Epoch:
    """The state after an epoch.

    cost: mean over the training data. correct, total: of the test data. seconds: of the epoch's mini-batches, without the
    evaluation.
    """

    epoch: int
    cost: float
    correct: int
    total: int
    seconds: float


# A misclassified test image: its place in the test data, its digit, and what it was read as.
Misread = tuple[int, int, int]


def train(network: Network, training_data: Samples, test_data: Samples, config: SgdConfig) -> Iterator[Epoch]:
    """Yield each epoch once it is done. Raises OlcError when the cost is no longer finite."""
    epochs = network.SGD(training_data, config.epochs, config.mini_batch_size, config.eta)
    labels = test_data.y.argmax(axis=1)
    while True:
        started = time.perf_counter()
        # Overflow is reported by the error below, not by numpy's warnings.
        with np.errstate(over="ignore", invalid="ignore"):
            epoch = next(epochs, None)
            if epoch is None:
                return
            seconds = time.perf_counter() - started
            cost, _ = evaluate(network, training_data)
            _, outputs = evaluate(network, test_data)
        if not (math.isfinite(cost) and np.isfinite(network.parameters).all()):
            raise diverged(cost, epoch, config)
        correct = int((outputs.argmax(axis=1) == labels).sum())
        yield Epoch(epoch, cost, correct, len(test_data), seconds)


def evaluate(network: Network, data: Samples) -> tuple[float, Matrix]:
    """`Network.evaluate`, part by part."""
    parts = [data[k : k + _AT_ONCE] for k in range(0, len(data), _AT_ONCE)]
    results = [network.evaluate(part) for part in parts]
    cost = sum(cost * len(part) for (cost, _), part in zip(results, parts, strict=True)) / len(data)
    return cost, np.concatenate([outputs for _, outputs in results])


def confusion(network: Network, test_data: Samples) -> tuple[list[list[int]], list[Misread]]:
    """How often each digit (row) was read as each (column), and the misread images, the most confident mistake first."""
    _, outputs = evaluate(network, test_data)
    labels, answers = test_data.y.argmax(axis=1), outputs.argmax(axis=1)
    counts: NDArray[np.int64] = np.zeros((outputs.shape[1],) * 2, np.int64)
    np.add.at(counts, (labels, answers), 1)
    wrong = np.flatnonzero(labels != answers)
    order = wrong[np.argsort(-outputs[wrong].max(axis=1), kind="stable")]
    return counts.tolist(), [(int(place), int(labels[place]), int(answers[place])) for place in order]


def trouble(network: Network, test_data: Samples, epochs: Sequence[Epoch], config: SgdConfig) -> tuple[str, str] | None:
    """A warning and what to try, for a run that is still no better than chance after several epochs; else None."""
    if len(epochs) < min(_PATIENCE, max(config.epochs, _STUCK)):
        return None
    total = len(test_data)
    guess = test_data.y.sum(axis=0).max() / total
    # Always answering the most frequent digit, plus two standard deviations.
    chance = guess + 2 * math.sqrt(guess * (1 - guess) / total)
    if any(epoch.correct > chance * total for epoch in epochs[-_STUCK:]):
        return None
    last = epochs[-1]
    cause = f"accuracy is at chance after {last.epoch} epochs ({last.correct} of {last.total})"
    with np.errstate(over="ignore", invalid="ignore"):
        activations, _ = network.feedforward(test_data[:_AT_ONCE].x.T)
    # Most activations of a layer after the input are near 0 or 1.
    if any(((a < 0.01) | (a > 0.99)).mean() > 0.5 for a in activations[1:]):
        return f"{cause}, with saturated neurons: --eta {config.eta:g} is far too large", f"--eta {smaller(config.eta):g}"
    if len(config.sizes) > 3:
        return f"{cause}: a network of so many layers learns slowly", "fewer layers, --cost cross-entropy, or more --epochs"
    return f"{cause}: --eta {config.eta:g} is too small, or there are too few steps", "a larger --eta, or more --epochs"


def diverged(cost: float, epoch: int, config: SgdConfig) -> OlcError:
    """The error for a run whose weights are no longer finite."""
    return OlcError(
        f"the cost is {cost:g} after epoch {epoch}: with --eta {config.eta:g} the weights overflowed",
        f"lower the learning rate: --eta {smaller(config.eta):g}",
        code="diverged",
    )


def smaller(eta: float) -> float:
    """A learning rate worth trying instead."""
    return SgdConfig.eta if eta > SgdConfig.eta else eta / 10
