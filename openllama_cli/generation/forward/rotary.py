"""The rotary embedding (Su et al. 2021) of every row by itself, with transformers' frequencies.

Most types turn a position by the same angles in every text. longrope has two sets of frequencies: transformers' Llama takes the
long ones for a whole forward pass once the pass reaches beyond the length that the model was first trained on. A prompt is one
pass, and so is every token after it; keys that are in the cache stay as they were turned. olc runs a prompt in chunks and the
tokens of several rows together, so here the prompt's length is an argument, and one row's never changes another's angles.
"""

from dataclasses import dataclass
from typing import Any

import torch

from openllama_cli.models.checkpoint.rope import longrope_limit


@dataclass(frozen=True)
class Rotary:
    """Positions to cosines and sines.

    frequencies: [D / 2], float32. scaling: what cosines and sines are multiplied with. dtype: of the results.
    long_frequencies, limit: in place of `frequencies` in passes over more than `limit` tokens; None: there is one set.
    """

    frequencies: torch.Tensor
    scaling: float
    dtype: torch.dtype
    long_frequencies: torch.Tensor | None = None
    limit: int | None = None

    def __call__(self, positions: torch.Tensor, prompt: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """[...] positions → cosines and sines, [..., D] each, computed in float32 as transformers does.

        prompt: the number of tokens of the prompt that they are part of, which is one pass; None: each token is its own.
        """
        frequencies = self.frequencies.to(positions.device)
        if self.long_frequencies is not None and self.limit is not None:
            lengths = positions + 1 if prompt is None else torch.full_like(positions, prompt)
            long = self.long_frequencies.to(positions.device)
            frequencies = torch.where((lengths > self.limit)[..., None], long, frequencies)
        angles = positions[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scaling).to(self.dtype), (angles.sin() * self.scaling).to(self.dtype)


def rotary_of(module: Any, dtype: torch.dtype, device: torch.device) -> Rotary:
    """The rotary embedding of a transformers `LlamaRotaryEmbedding`."""
    limit = longrope_limit(module.config.to_dict())
    scaling = float(module.attention_scaling)
    if limit is None:
        return Rotary(module.inv_freq.float().to(device), scaling, dtype)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    # Computed anew: a forward pass of the module's own leaves either set in it.
    short, long = (
        ROPE_INIT_FUNCTIONS["longrope"](module.config, torch.device("cpu"), seq_len=length)[0].float().to(device)
        for length in (limit, limit + 1)
    )
    return Rotary(short, scaling, dtype, long, limit)
