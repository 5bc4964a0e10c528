"""`olc sgd`: mini-batch stochastic gradient descent on handwritten digits, from scratch."""

import contextlib
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.options import svg_option
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.sgd.config import CLASSES, COST_NAMES, SgdConfig, one_thread, parse_sizes
from openllama_cli.terminal.streams import hint, is_terminal, note, out_json

if TYPE_CHECKING:
    from openllama_cli.sgd.digits import Digits
    from openllama_cli.sgd.network import Network, Samples
    from openllama_cli.sgd.training import Epoch

_DRAWN = 8

EXAMPLES = """\b
Examples:
  olc sgd
  olc sgd --sizes 64,10 --cost cross-entropy --eta 0.5
  olc sgd --seed 1 --svg digits.svg
  olc sgd --explain --seed 1
  olc sgd --check
  olc sgd --data ./mnist --json | jq .confusion

\b
The digits shipped with olc: E. Alpaydin, C. Kaynak, Optical Recognition of
Handwritten Digits, UCI, 1998, https://doi.org/10.24432/C50P49 (CC BY 4.0).
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--sizes",
    metavar="N,N,…",
    show_default="64,30,10; for MNIST 784,30,10",
    help="Neurons per layer: pixels, hidden layers, digits.",
)
@click.option("--epochs", type=int, default=SgdConfig.epochs, show_default=True, metavar="N", help="Passes over the data.")
@click.option(
    "--mini-batch-size",
    type=int,
    default=SgdConfig.mini_batch_size,
    show_default=True,
    metavar="N",
    help="Images per mini-batch.",
)
@click.option("--eta", type=float, default=SgdConfig.eta, show_default=True, metavar="R", help="Learning rate.")
@click.option("--cost", type=click.Choice(COST_NAMES), default=SgdConfig.cost, show_default=True, help="Loss function.")
@click.option("-s", "--seed", type=int, metavar="SEED", help="Random seed: the same seed gives the same run.")
@click.option(
    "--data",
    multiple=True,
    metavar="PATH",
    show_default="the UCI digits shipped with olc",
    help="Folder or file in MNIST's IDX format, plain or .gz; repeatable.",
    shell_complete=suggest.files,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every epoch and the confusion matrix.")
@svg_option("Save the curves and the weights of the first layer as a picture.", "--plot")
@click.option("--check", "checking", is_flag=True, help="Compare gradients and weights with finite differences and torch.")
@click.option("--explain", "explaining", is_flag=True, help="Walk through the update of one mini-batch, number by number.")
def command(
    sizes: str | None,
    epochs: int,
    mini_batch_size: int,
    eta: float,
    cost: str,
    seed: int | None,
    data: tuple[str, ...],
    as_json: bool,
    svg: str | None,
    checking: bool,
    explaining: bool,
) -> None:
    """Train a neural network on handwritten digits by mini-batch stochastic gradient descent.

    The network has sigmoid neurons and hand-written backpropagation, as in chapter 1 of Nielsen's "Neural Networks and Deep
    Learning". The cost shown is the training loss; accuracy is measured on a held-out fifth of the digits, or on the test set
    of --data. --check exits with 1 if any comparison fails.
    """
    if explaining and (checking or as_json or svg):
        other = "--check" if checking else "--json" if as_json else "--svg"
        raise UsageError(f"--explain does not train, so {other} has nothing to show", "give only one of them")
    if checking and svg:
        raise UsageError("--check has no curves for --svg to save", "give only one of them")
    given: dict[str, Any] = {"epochs": epochs, "mini_batch_size": mini_batch_size, "eta": eta, "cost": cost}
    if seed is not None:
        given["seed"] = seed
    if sizes is not None:
        given["sizes"] = parse_sizes(sizes)
    config = SgdConfig(**given)
    target = None if svg is None else writable(svg)

    from openllama_cli.sgd.digits import prepare, read_digits

    digits = read_digits([Path(path) for path in data])
    if sizes is None:
        config = replace(config, sizes=(digits.pixels, *config.sizes[1:-1], CLASSES))
    config.fit(digits.pixels, digits.training, digits.name)
    one_thread()

    from openllama_cli.sgd.network import Network

    training_data, test_data = prepare(digits)
    if not as_json:
        parts = f"{digits.training:,} images to train on" + ("" if checking else f", {len(test_data):,} to test with")
        note(f"{_described(config)}, seed {config.seed}; {digits.name}: {parts}")
    if checking:
        _check(training_data, config, as_json=as_json)
        return
    network = Network(config.sizes, config.cost, config.seed)
    if explaining:
        import numpy as np

        from openllama_cli.sgd.explain import explain
        from openllama_cli.terminal.views.sgd import show_steps

        mini_batch = next(network.mini_batches(training_data, config.mini_batch_size))
        with np.errstate(over="ignore", invalid="ignore"):
            steps = explain(network, mini_batch, config.eta)
        show_steps(steps)
        return
    epochs_done = _train(network, training_data, test_data, config, quiet=as_json)
    if as_json or is_terminal(sys.stdout):
        _report(network, test_data, digits, config, epochs_done, as_json=as_json)
    if target is not None:
        from openllama_cli.sgd.plot import svg as draw

        title = f"olc sgd: {_described(config)}, seed {config.seed}"
        save(target, draw(epochs_done, network.weights[0], *digits.shape, title))
        note(f"wrote {target}")


def _described(config: SgdConfig) -> str:
    sizes = "-".join(map(str, config.sizes))
    return f"network {sizes}, {config.cost} cost, eta {config.eta:g}, mini-batches of {config.mini_batch_size}"


def _train(
    network: "Network", training_data: "Samples", test_data: "Samples", config: SgdConfig, *, quiet: bool
) -> "list[Epoch]":
    """Train, and show each epoch unless quiet. Raises OlcError if the run diverges."""
    from openllama_cli.sgd.training import train, trouble
    from openllama_cli.terminal.views.sgd import TrainingView

    done: list[Epoch] = []
    warning, below = "", False
    view = TrainingView(config.epochs)
    with contextlib.nullcontext() if quiet else view:
        for epoch in train(network, training_data, test_data, config):
            done.append(epoch)
            if not quiet:
                view.add(epoch.epoch, epoch.cost, epoch.correct, epoch.total)
            if not warning and (found := trouble(network, test_data, done, config)):
                warning = f"{found[0]}; try {found[1]}"
                # While the view is live, stderr would write over it.
                below = not quiet and view.warn(warning)
                if not below:
                    hint(warning)
    if below:
        hint(warning)
    return done


def _report(
    network: "Network", test_data: "Samples", digits: "Digits", config: SgdConfig, done: "list[Epoch]", *, as_json: bool
) -> None:
    from openllama_cli.sgd.training import confusion

    counts, misread = confusion(network, test_data)
    if as_json:
        settings = {name: getattr(config, name) for name in ("sizes", "eta", "mini_batch_size", "cost", "seed")}
        epochs = [{**asdict(epoch), "seconds": round(epoch.seconds, 6)} for epoch in done]
        out_json({**settings, "epochs": epochs, "confusion": counts})
        return
    from openllama_cli.terminal.views.sgd import show_confusion, show_misread

    show_confusion(counts)
    drawn = [(test_data.x[place].reshape(digits.shape).tolist(), digit, read) for place, digit, read in misread[:_DRAWN]]
    show_misread(drawn, len(misread))


def _check(training_data: "Samples", config: SgdConfig, *, as_json: bool) -> None:
    """Report every comparison. Raises OlcError if one is beyond its tolerance."""
    from openllama_cli.terminal.progress import working
    from openllama_cli.terminal.tables import table

    with working("comparing gradients and weights"):
        from openllama_cli.sgd.check import check  # torch takes seconds to import

        comparisons = list(check(training_data, config))
    if as_json:
        documents: list[dict[str, Any]] = [{**asdict(one), "ok": one.ok} for one in comparisons]
        for document in documents:
            if not document["largest_difference"] < float("inf"):
                document["largest_difference"] = None  # JSON has no NaN.
        out_json({"checks": documents})
    else:
        columns = ["what", "against", "numbers", "largest difference", "tolerance", "equal"]
        rows = []
        for one in comparisons:
            figures = (f"{one.numbers:,}", f"{one.largest_difference:.1e}", f"{one.tolerance:.0e}")
            rows.append([one.what, one.against, *figures, "yes" if one.ok else "NO"])
        table(columns, rows, right=columns[2:5], optional=["numbers", "tolerance"])
    worst = next((one for one in comparisons if not one.ok), None)
    if worst is not None:
        by = f"{worst.largest_difference:.1e}, more than {worst.tolerance:.0e}"
        cause = f"{worst.what} and {worst.against} differ by up to {by}"
        raise OlcError(cause, "please report this with the command and its seed", code="check_failed")
