"""Is the loop right? Its greedy tokens against `model.generate`, its log-probabilities against a full forward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import Request, Scored, Step, decode_rows
from openllama_cli.generation.decode.sampling import log_probabilities
from openllama_cli.generation.forward.transformers_forward import Forward

# Log-probabilities of one pass over everything and of a cache differ by the order of additions: about 1e-6 in float32.
LOGPROB_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """One prompt's comparison.

    ours, theirs: greedy tokens of the loop and of `model.generate`, EOS included.
    first_difference: the first place where they differ, or None.
    margin: how much likelier (in log-probability) the loop's token was than the other one there; a near tie is rounding.
    logprob_difference: the largest, over all tokens of ours, between the loop and a full forward pass.
    """

    row: int
    ours: tuple[int, ...]
    theirs: tuple[int, ...]
    first_difference: int | None
    margin: float | None
    logprob_difference: float

    @property
    def same(self) -> bool:
        """Whether tokens are equal and log-probabilities within `LOGPROB_TOLERANCE`."""
        return self.first_difference is None and self.logprob_difference <= LOGPROB_TOLERANCE


def check(
    model: Any,
    input_device: torch.device,
    forward: Forward,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    eos: frozenset[int],
) -> Iterator[Check]:
    """Run prompts greedily through the loop, all side by side, then one by one through transformers.

    model: the transformers model that `forward` runs; input_device: where it takes token ids. Prompts must leave
    `max_tokens` positions in the context.
    Raises GenerationError for the first prompt that fails.
    """
    config = SamplingConfig(max_tokens, logprobs=0)
    rows: list[list[Scored]] = [[] for _ in prompts]
    requests = (Request(row, prompt, config, eos) for row, prompt in enumerate(prompts))
    for event in decode_rows(forward, requests, max_rows=max(1, len(prompts))):
        if isinstance(event, Step) and event.error is not None:
            raise event.error
        if isinstance(event, Step) and event.scored is not None:
            rows[event.row].append(event.scored)
    for row, prompt in enumerate(prompts):
        yield _compare(model, input_device, row, prompt, rows[row], max_tokens, eos)


@torch.inference_mode()
def _compare(
    model: Any,
    device: torch.device,
    row: int,
    prompt: Sequence[int],
    scored: Sequence[Scored],
    max_tokens: int,
    eos: frozenset[int],
) -> Check:
    ids = torch.tensor([list(prompt)], device=device)  # [1, n]
    ours = tuple(entry.token for entry in scored)
    theirs: tuple[int, ...] = ()
    if max_tokens:
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=sorted(eos) or None,
            pad_token_id=0,
        )
        theirs = tuple(output[0, len(prompt) :].tolist())
    whole = torch.tensor([[*prompt, *ours]], device=device)
    logprobs = log_probabilities(model(whole).logits[0, len(prompt) - 1 :])  # [new + 1, vocab]
    gaps = [abs(float(logprobs[place, entry.token]) - (entry.logprob or 0.0)) for place, entry in enumerate(scored)]
    place = next((place for place, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
    if place is None and len(ours) != len(theirs):
        place = min(len(ours), len(theirs))
    margin = None
    if place is not None and place < min(len(ours), len(theirs)):
        margin = float(logprobs[place, ours[place]] - logprobs[place, theirs[place]])
    return Check(row, ours, theirs, place, margin, max(gaps, default=0.0))
