"""What the processors did at one step, token by token, for `olc generate --trace`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from openllama_cli.generation.decode.processors import Stage

# The stages that cut tokens off, and those before them that only change logits.
CUTS = ("top-k", "top-p", "min-p")


@dataclass(frozen=True)
class Candidate:
    """A token at one step, with its probability (0 to 1) after each group of processors.

    model: of the model itself. penalized: after what is never drawn, biases and penalties. tempered: after the temperature;
    None where the row is greedy. drawn: of being drawn. cut: the filter that cut it off ("top-k", "top-p", "min-p"), or "never"
    if it may not be drawn here at all; None if it was kept. taken: whether it was chosen.
    """

    token: int
    model: float
    penalized: float
    tempered: float | None
    drawn: float
    cut: str | None
    taken: bool


@dataclass(frozen=True)
class Trace:
    """A step. entropy: of the model's distribution, in bits. stages: the processors that had something to do, in order.
    candidates: the most likely tokens by the model, and the one taken; the most likely first."""

    entropy: float
    stages: tuple[str, ...]
    candidates: tuple[Candidate, ...]


def trace_of(logits: torch.Tensor, recorded: Sequence[Stage], token: int, count: int) -> Trace:
    """A step's trace. logits: [vocab], the model's. recorded: its stages. token: that was taken. count: of candidates."""
    model = logits.float().softmax(-1)
    after = dict(recorded)
    names = tuple(after)
    steady = [name for name in names if name not in (*CUTS, "temperature")]
    penalized = after[steady[-1]].softmax(-1)
    tempered = after["temperature"].softmax(-1) if "temperature" in after else None
    if tempered is None:  # Greedy: the most likely token is all there is.
        drawn = torch.zeros_like(model)
        drawn[token] = 1.0
    else:
        drawn = recorded[-1][1].softmax(-1)
    shown = model.topk(min(count, model.numel())).indices.tolist()
    shown += [token] if token not in shown else []
    # Of each tensor at once: on a GPU every read waits for it.
    at = torch.tensor(shown, device=model.device)
    cuts = {name: (after[name][at] == -math.inf).tolist() for name in ("allowed", *CUTS) if name in after}
    shares = {"model": model, "penalized": penalized, "drawn": drawn, **({} if tempered is None else {"tempered": tempered})}
    found = {name: one[at].tolist() for name, one in shares.items()}
    candidates = [
        Candidate(
            one,
            found["model"][place],
            found["penalized"][place],
            None if tempered is None else found["tempered"][place],
            found["drawn"][place],
            next(("never" if name == "allowed" else name for name, cut in cuts.items() if cut[place]), None),
            one == token,
        )
        for place, one in enumerate(shown)
    ]
    entropy = float(torch.special.entr(model).sum()) / math.log(2)
    return Trace(entropy, names, tuple(candidates))
