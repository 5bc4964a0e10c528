"""How much faster a mini-batch is as one matrix than sample by sample: `python -m openllama_cli.benchmark.sgd`.

Both versions learn from the same digits in the same process, epoch by epoch in turn. The quickest epoch of each is compared,
in processor time, which other work on the machine lengthens least. An epoch is what a run shows a line for: every
mini-batch, then the cost of the training data and the accuracy on the test data. The version of one sample at a time is
written as chapter 1 of the book writes it. Prints one line of JSON.
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


def measure(paths: Sequence[Path], epochs: int, seed: int) -> dict[str, Any]:
    """Seconds of the quickest epoch of each version, learning alone and with the evaluation, and how they compare."""
    import numpy as np

    from openllama_cli.benchmark.sgd_one_at_a_time import as_columns, mean_cost, update_mini_batch
    from openllama_cli.sgd.network import Network
    from openllama_cli.sgd.training import evaluate

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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.benchmark.sgd", description="Time mini-batches as matrices against one sample at a time."
    )
    parser.add_argument("--data", type=Path, action="append", default=[], help="files in MNIST's format, as for olc sgd")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each version (default: 20)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    one_thread()
    print(json.dumps(measure(options.data, options.epochs, options.seed)))


if __name__ == "__main__":
    main()
