"""`olc sgd`: mini-batch stochastic gradient descent on handwritten digits, from scratch."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.sgd.config import CLASSES, COST_NAMES, SgdConfig, one_thread, parse_sizes
from openllama_cli.terminal.streams import hint, is_terminal, notice, out_json

if TYPE_CHECKING:
    from openllama_cli.sgd.digits import Digits
    from openllama_cli.sgd.network import Network, Samples
    from openllama_cli.sgd.training import Epoch, Misread

_DRAWN = 8

EXAMPLES = """\b
Examples:
  olc sgd
  olc sgd --sizes 64,10 --cost cross-entropy --eta 0.5
  olc sgd --seed 1 --plot digits.svg
  olc sgd --explain --seed 1
  olc sgd --check
  olc sgd --data ./mnist --json | jq .confusion

\b
The digits that are shipped: E. Alpaydin, C. Kaynak, Optical Recognition of
Handwritten Digits, UCI, 1998, https://doi.org/10.24432/C50P49 (CC BY 4.0).
"""


@click.command(epilog=EXAMPLES)
@click.option("--sizes", metavar="N,N,…", help="Neurons of each layer, from pixels to digits. [64,30,10; MNIST 784,30,10]")
@click.option("--epochs", type=int, default=SgdConfig.epochs, show_default=True, metavar="N", help="Rounds through the data.")
@click.option(
    "--mini-batch-size",
    type=int,
    default=SgdConfig.mini_batch_size,
    show_default=True,
    metavar="N",
    help="Images that a step learns from.",
)
@click.option("--eta", type=float, default=SgdConfig.eta, show_default=True, metavar="R", help="Learning rate.")
@click.option("--cost", type=click.Choice(COST_NAMES), default=SgdConfig.cost, show_default=True, help="What is made small.")
@click.option("-s", "--seed", type=int, metavar="SEED", help="The same seed, the same run.")
@click.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="A folder or files in MNIST's IDX format, plain or .gz; repeatable.",
    shell_complete=suggest.files,
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every epoch and the confusion table.")
@click.option(
    "--plot",
    metavar="FILE.svg",
    help="Save the curves and the first layer's weights as a picture.",
    shell_complete=suggest.files,
)
@click.option("--check", "checking", is_flag=True, help="Compare with finite differences and torch; exit 1 on a difference.")
@click.option("--explain", "explaining", is_flag=True, help="Walk one mini-batch through the update, number by number.")
def command(
    sizes: str | None,
    epochs: int,
    mini_batch_size: int,
    eta: float,
    cost: str,
    seed: int | None,
    data: tuple[str, ...],
    as_json: bool,
    plot: str | None,
    checking: bool,
    explaining: bool,
) -> None:
    """Train a network of sigmoid neurons on handwritten digits by mini-batch stochastic gradient descent.

    As in chapter 1 of Nielsen's "Neural Networks and Deep Learning", with backpropagation written by hand. A fifth of the
    digits is held out, and accuracy is measured on it; the cost is that of the digits learned from. --data takes MNIST.
    """
    if explaining and (checking or as_json or plot):
        other = "--check" if checking else "--json" if as_json else "--plot"
        raise UsageError(f"--explain trains nothing that {other} could show", "give one of them")
    if checking and plot:
        raise UsageError("--check draws nothing that --plot could save", "give one of them")
    given: dict[str, Any] = {} if seed is None else {"seed": seed}
    if sizes is not None:
        given["sizes"] = parse_sizes(sizes)
    given |= {"epochs": epochs, "mini_batch_size": mini_batch_size, "eta": eta, "cost": cost}
    config = SgdConfig(**given)
    target = None if plot is None else writable(plot)

    from openllama_cli.sgd.digits import read_digits

    digits = read_digits([Path(path) for path in data])
    if sizes is None:
        config = SgdConfig(**{**given, "seed": config.seed, "sizes": (digits.pixels, *config.sizes[1:-1], CLASSES)})
    config.fit(digits.pixels, digits.training, digits.name)
    one_thread()

    from openllama_cli.sgd.digits import prepare
    from openllama_cli.sgd.network import Network

    training_data, test_data = prepare(digits)
    if not as_json:
        _introduce(config, digits, len(test_data), checking=checking)
    if checking:
        _check(training_data, config, as_json=as_json)
        return
    network = Network(config.sizes, config.cost, config.seed)
    if explaining:
        _explain(network, training_data, config)
        return
    epochs_done = _train(network, training_data, test_data, config, quiet=as_json)
    _report(network, test_data, digits, config, epochs_done, as_json=as_json)
    if target is not None:
        _draw(target, network, digits, config, epochs_done)


def _introduce(config: SgdConfig, digits: "Digits", testing: int, *, checking: bool) -> None:
    network = "-".join(map(str, config.sizes))
    how = f"{config.cost} cost, eta {config.eta:g}, mini-batches of {config.mini_batch_size}, seed {config.seed}"
    parts = f"{digits.training:,} images to learn from" + ("" if checking else f", {testing:,} to test with")
    notice(f"olc: network {network}, {how}; {digits.name}: {parts}")


def _train(
    network: "Network", training_data: "Samples", test_data: "Samples", config: SgdConfig, *, quiet: bool
) -> "list[Epoch]":
    """Learn, and show each epoch unless quiet. Raises OlcError if the run diverges."""
    from openllama_cli.sgd.training import train, trouble
    from openllama_cli.terminal.views.sgd import TrainingView

    done: list[Epoch] = []
    later = warning = ""
    view = TrainingView(config.epochs)
    with _nothing() if quiet else view:
        for epoch in train(network, training_data, test_data, config):
            done.append(epoch)
            if not quiet:
                view.add(epoch.epoch, epoch.cost, epoch.correct, epoch.total)
            if not warning and (found := trouble(network, test_data, done, config)):
                warning = f"{found[0]}; try {found[1]}"
                # Under a live view stderr would draw across it.
                if quiet or not view.warn(warning):
                    hint(warning)
                else:
                    later = warning
    if later:
        hint(later)
    return done


def _report(
    network: "Network", test_data: "Samples", digits: "Digits", config: SgdConfig, done: "list[Epoch]", *, as_json: bool
) -> None:
    from openllama_cli.sgd.training import confusion

    if not as_json and not is_terminal(sys.stdout):
        return
    counts, misread = confusion(network, test_data)
    if as_json:
        out_json(
            {
                "sizes": list(config.sizes),
                "eta": config.eta,
                "mini_batch_size": config.mini_batch_size,
                "cost": config.cost,
                "seed": config.seed,
                "epochs": [
                    {
                        "epoch": epoch.epoch,
                        "cost": epoch.cost,
                        "correct": epoch.correct,
                        "total": epoch.total,
                        "seconds": round(epoch.seconds, 6),
                    }
                    for epoch in done
                ],
                "confusion": counts,
            }
        )
        return
    from openllama_cli.terminal.views.sgd import show_confusion, show_misread

    show_confusion(counts)
    show_misread([_image(test_data, digits, one) for one in misread[:_DRAWN]], len(misread))


def _image(test_data: "Samples", digits: "Digits", one: "Misread") -> tuple[list[list[float]], int, int]:
    return test_data.x[one.place].reshape(digits.shape).tolist(), one.label, one.answer


def _check(training_data: "Samples", config: SgdConfig, *, as_json: bool) -> None:
    """Report every comparison. Raises OlcError if one is beyond its tolerance."""
    from openllama_cli.sgd.check import check
    from openllama_cli.terminal.tables import table

    comparisons = list(check(training_data, config))
    if as_json:
        documents = [
            {
                "what": one.what,
                "against": one.against,
                "numbers": one.count,
                # JSON has no NaN.
                "largest_difference": one.difference if one.difference < float("inf") else None,
                "tolerance": one.tolerance,
                "ok": one.ok,
            }
            for one in comparisons
        ]
        out_json({"checks": documents})
    else:
        rows = [
            [
                one.what,
                one.against,
                f"{one.count:,}",
                f"{one.difference:.1e}",
                f"{one.tolerance:.0e}",
                "yes" if one.ok else "NO",
            ]
            for one in comparisons
        ]
        columns = ["what", "against", "numbers", "largest difference", "tolerance", "equal"]
        table(columns, rows, right=columns[2:5], optional=["numbers", "tolerance"])
    failed = [one for one in comparisons if not one.ok]
    if failed:
        worst = failed[0]
        cause = f"{worst.what} and {worst.against} differ by up to {worst.difference:.1e}, more than {worst.tolerance:.0e}"
        raise OlcError(cause, "please report this with the command and its seed", code="check_failed")


def _explain(network: "Network", training_data: "Samples", config: SgdConfig) -> None:
    import numpy as np

    from openllama_cli.sgd.explain import explain
    from openllama_cli.terminal.views.sgd import show_steps

    mini_batch = next(network.mini_batches(training_data, config.mini_batch_size))
    with np.errstate(over="ignore", invalid="ignore"):
        steps = explain(network, mini_batch, config.eta)
    show_steps([(step.title, step.lines) for step in steps])


def _draw(target: Path, network: "Network", digits: "Digits", config: SgdConfig, done: "list[Epoch]") -> None:
    from openllama_cli.sgd.plot import svg

    sizes = "-".join(map(str, config.sizes))
    title = f"olc sgd: network {sizes}, {config.cost} cost, eta {config.eta:g}, mini-batches of {config.mini_batch_size}"
    picture = svg(done, network.weights[0], *digits.shape, f"{title}, seed {config.seed}")
    save(target, picture)
    notice(f"olc: wrote {target}")


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()
