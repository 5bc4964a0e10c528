"""`olc sgd --explain`: one update number by number, every matrix with its shape, and one path through them in full.

The path: a hidden neuron, the output neuron of the first image's digit, and the weight between them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from openllama_cli.sgd.network import CrossEntropyCost, Matrix, Network, Samples

# Terms of a sum that are written out.
_TERMS = 10


# A stage of the update: a title, and lines in plain text.
Step = tuple[str, Sequence[str]]


def explain(network: Network, mini_batch: Samples, eta: float) -> list[Step]:
    """Walk through one update of the network, which is applied at the end. Numbers are rounded to four digits."""
    walk = _Walk(network, mini_batch)
    steps = [walk.mini_batch(), *walk.forwards(), walk.cost(), *map(walk.backwards, range(walk.last, 0, -1)), walk.update(eta)]
    before = network.evaluate(mini_batch)
    network.update_mini_batch(mini_batch, eta)
    return [*steps, walk.afterwards(before, network.evaluate(mini_batch))]


class _Walk:
    def __init__(self, network: Network, batch: Samples) -> None:
        self.network, self.batch, self.n = network, batch, len(batch)
        self.x, self.y = batch.x.T.astype(np.float64), batch.y.T
        self.activations, _ = network.feedforward(self.x)
        self.last = len(network.weights)
        nabla_b, nabla_w = network.backprop(self.x, self.y)
        self.nabla_b, self.nabla_w = [nb.copy() for nb in nabla_b], [nw.copy() for nw in nabla_w]
        # deltas[l] belongs to layer l, numbered like activations: the input is layer 0 and has none.
        self.deltas: list[Matrix] = [self.x, *network.biases]
        self.deltas[self.last] = network.cost.delta(self.activations[-1], self.y)
        for layer in range(self.last - 1, 0, -1):
            a = self.activations[layer]
            self.deltas[layer] = network.weights[layer].T @ self.deltas[layer + 1] * a * (1 - a)
        # The neuron followed in each layer: in the last the digit's, before it the one with the largest gradient.
        self.followed = [0] * self.last + [int(self.y[:, 0].argmax())]
        for layer in range(self.last - 1, -1, -1):
            self.followed[layer] = int(np.abs(self.nabla_w[layer][self.followed[layer + 1]]).argmax())

    def mini_batch(self) -> Step:
        digits = " ".join(str(digit) for digit in self.y.argmax(axis=0)[: 2 * _TERMS])
        more = " …" if self.n > 2 * _TERMS else ""
        x = f"x {_shape(self.x)}: one column of pixels per image, which show {digits}{more}"
        y = f"y {_shape(self.y)}: the targets: 1 in the row of the digit, 0 elsewhere"
        return f"The mini-batch: {self.n} image{'s' if self.n > 1 else ''}", (x, y)

    def forwards(self) -> Iterator[Step]:
        for layer in range(1, self.last + 1):
            w, b = self.network.weights[layer - 1], self.network.biases[layer - 1]
            before, a = self.activations[layer - 1], self.activations[layer]
            j = self.followed[layer]
            terms = w[j] * before[:, 0]
            # The largest are worth reading; blank pixels contribute nothing.
            order = np.argsort(-np.abs(terms), kind="stable")[:_TERMS]
            products = [_product(w[j, k], before[k, 0]) for k in sorted(order)]
            z = float(terms.sum() + b[j, 0])
            lines = [
                "z = w · a + b",
                f"{_shape(w)} · {_shape(before)} + {_shape(b)} = {_shape(a)}; then a = sigmoid(z) {_shape(a)}",
                f"neuron {j}, image 0: z = {_sum(products, len(terms) - _TERMS)} + b, which is {_n(b[j, 0])}",
                f"z = {_n(z)}, a = 1 / (1 + exp({_n(-z)})) = {_n(a[j, 0])}",
            ]
            if layer == self.last:
                lines.append(f"all outputs, image 0: {' '.join(_n(value) for value in a[:, 0])}")
                lines.append(f"target:               {' '.join(_n(value) for value in self.y[:, 0])}")
            yield f"Forwards into layer {layer}", lines

    def cost(self) -> Step:
        a, y = self.activations[-1], self.y
        mean, _ = self.network.evaluate(self.batch)
        first, _ = self.network.evaluate(self.batch[:1])
        if self.network.cost is CrossEntropyCost:
            formula = "C = -Σ (y ln a + (1 - y) ln(1 - a)), over the outputs"
            terms = [f"ln {_n(value if wanted else 1 - value)}" for value, wanted in zip(a[:, 0], y[:, 0], strict=True)]
            shown = f"-({' + '.join(terms[:_TERMS])})"
        else:
            formula = "C = ½ Σ (a - y)², over the outputs"
            terms = [f"({_n(value)} - {_n(wanted)})²" for value, wanted in zip(a[:, 0], y[:, 0], strict=True)]
            shown = f"½ ({' + '.join(terms[:_TERMS])})"
        return "The cost", (formula, f"image 0: {shown} = {_n(first)}", f"mean of the mini-batch: {_n(mean)}")

    def backwards(self, layer: int) -> Step:
        delta, before, a = self.deltas[layer], self.activations[layer - 1], self.activations[layer]
        j, k = self.followed[layer], self.followed[layer - 1]
        value = a[j, 0]
        if layer == self.last:
            wanted = self.y[j, 0]
            squash = "" if self.network.cost is CrossEntropyCost else f"·{_n(value)}·(1 - {_n(value)})"
            formula = "delta = a - y" if not squash else "delta = (a - y) · a · (1 - a), elementwise"
            lines = [f"{formula} {_shape(delta)}"]
            lines.append(f"neuron {j}, image 0: ({_n(value)} - {_n(wanted)}){squash} = {_n(delta[j, 0])}")
        else:
            w, after = self.network.weights[layer], self.deltas[layer + 1]
            products = [_product(x, d) for x, d in zip(w[:_TERMS, j], after[:_TERMS, 0], strict=True)]
            lines = [
                "delta = (wᵀ · delta of the layer after) · a · (1 - a)",
                f"{_shape(w.T)} · {_shape(after)} = {_shape(delta)}",
                f"neuron {j}, image 0: ({_sum(products, len(w) - _TERMS)})·{_n(value)}·(1 - {_n(value)}) = {_n(delta[j, 0])}",
            ]
        sums = [_n(d) for d in delta[j, :_TERMS]]
        products = [_product(d, x) for d, x in zip(delta[j, :_TERMS], before[k, :_TERMS], strict=True)]
        nabla_b, nabla_w = self.nabla_b[layer - 1], self.nabla_w[layer - 1]
        lines += [
            f"nabla_b = delta, summed over the images {_shape(nabla_b)}",
            f"neuron {j}: {_sum(sums, self.n - _TERMS)} = {_n(nabla_b[j, 0])}",
            f"nabla_w = delta · aᵀ of the layer before: {_shape(delta)} · {_shape(before.T)} = {_shape(nabla_w)}",
            f"weight [{j}, {k}]: {_sum(products, self.n - _TERMS)} = {_n(nabla_w[j, k])}",
        ]
        return f"Backwards out of layer {layer}", lines

    def update(self, eta: float) -> Step:
        rate = eta / self.n
        lines = [
            "w - (eta / len(mini_batch)) · nabla_w, and b likewise",
            f"eta / len(mini_batch) = {eta:g} / {self.n} = {_n(rate)}",
        ]
        for layer in range(1, self.last + 1):
            w, b = self.network.weights[layer - 1], self.network.biases[layer - 1]
            nw, nb = self.nabla_w[layer - 1], self.nabla_b[layer - 1]
            j, k = self.followed[layer], self.followed[layer - 1]
            lines.append(f"layer {layer}: weight [{j}, {k}] of {_shape(w)}: {_step(w[j, k], rate, nw[j, k])}")
            lines.append(f"layer {layer}: bias [{j}] of {_shape(b)}: {_step(b[j, 0], rate, nb[j, 0])}")
        lines.append(f"all {self.network.parameters.size:,} weights and biases are updated this way, at once")
        return "The update", lines

    def afterwards(self, before: tuple[float, Matrix], after: tuple[float, Matrix]) -> Step:
        answers = self.batch.y.argmax(axis=1)
        right = [int((outputs.argmax(axis=1) == answers).sum()) for _, outputs in (before, after)]
        lines = (f"mean cost {_n(before[0])} → {_n(after[0])}", f"correct {right[0]} → {right[1]} of {self.n}")
        return "Afterwards, the same mini-batch", lines


def _shape(matrix: Any) -> str:
    return f"({matrix.shape[0]}, {matrix.shape[1]})"


def _n(value: Any) -> str:
    """A number rounded to four digits."""
    return f"{float(value):.4g}"


def _sum(terms: Sequence[str], more: int) -> str:
    """The terms as a sum, with a minus before negative ones. more: how many terms are not written out."""
    text = " + ".join([*terms, f"{more} more terms"] if more > 0 else terms)
    return text.replace("+ -", "- ")


def _product(one: float, other: float) -> str:
    return f"{_n(one)}·({_n(other)})" if other < 0 else f"{_n(one)}·{_n(other)}"


def _step(value: float, rate: float, slope: float) -> str:
    """value - rate · slope and its result."""
    return f"{_n(value)} - {_product(rate, slope)} = {_n(value - rate * slope)}"
