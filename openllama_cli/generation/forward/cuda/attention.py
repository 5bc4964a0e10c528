"""Attention of one new token of every slot over what its slot holds, in a way that a CUDA graph can repeat.

The number of positions differs from slot to slot and grows with every step, while a graph repeats the same kernels: so it has
to come out of memory. Flash attention takes it so; other kernels take a mask.

Shapes: S = slots, H, K = query and key/value heads, D' = head size with filling, P = positions of a slot,
L = positions looked at.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# [S, H, D'] queries and a layer's [S, P, 2 K, D'] keys and values → [S, H, D'].
Attend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class SlotAttention(Protocol):
    """A way to attend. looks_everywhere: whether its cost does not depend on L, so that L may always be P."""

    looks_everywhere: bool

    def prepare(self, positions: torch.Tensor, length: int, slot_length: int) -> Attend:
        """For one step: positions, int64 [S], of the new tokens, which are in their slots already; L and P."""


class FlashAttention:
    """FlashAttention-2 (Dao 2023) over as many keys of each slot as a tensor says: private in torch, so it is probed."""

    looks_everywhere = True

    def __init__(self, kv_heads: int, scale: float) -> None:
        self._kv_heads, self._scale = kv_heads, scale

    def prepare(self, positions: torch.Tensor, length: int, slot_length: int) -> Attend:
        starts = torch.arange(len(positions) + 1, device=positions.device, dtype=torch.int32)
        # Slots that are not in use stand at the last position: one key each is enough.
        used = torch.where(positions == slot_length - 1, 0, positions).int() + 1

        def attend(query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            keys, values = memory.flatten(0, 1).split(self._kv_heads, dim=1)  # [S · P, K, D'] each
            output: torch.Tensor = torch.ops.aten._flash_attention_forward(
                query,
                keys,
                values,
                starts,
                starts * slot_length,
                1,
                slot_length,
                0.0,
                False,
                False,
                scale=self._scale,
                seqused_k=used,
            )[0]
            return output

        return attend


class MaskedAttention:
    """Any of torch's attention kernels, under a mask."""

    looks_everywhere = False

    def __init__(self, kv_heads: int, scale: float) -> None:
        self._kv_heads, self._scale = kv_heads, scale

    def prepare(self, positions: torch.Tensor, length: int, slot_length: int) -> Attend:
        later = (torch.arange(length, device=positions.device) > positions[:, None])[:, None, None]  # [S, 1, 1, L]

        def attend(query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            keys, values = memory[:, :length].transpose(1, 2).split(self._kv_heads, dim=1)  # [S, K, L, D'] each
            mask = torch.zeros(later.shape, device=query.device, dtype=query.dtype).masked_fill(later, -torch.inf)
            # The H / K queries of a key head stand where a prompt's tokens would. Flash attention takes no mask.
            grouped = query.unflatten(1, (self._kv_heads, -1))
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
                attended = scaled_dot_product_attention(grouped, keys, values, mask, scale=self._scale)
            return attended.flatten(1, 2)

        return attend


def slot_attention(kv_heads: int, heads: int, width: int, scale: float, like: torch.Tensor) -> SlotAttention:
    """The fastest way that works on this device. width: D'. like: a tensor of the device and type."""
    masked = MaskedAttention(kv_heads, scale)
    if like.device.type != "cuda":
        return masked
    flash = FlashAttention(kv_heads, scale)
    generator = torch.Generator(like.device).manual_seed(0)
    memory = torch.randn((2, 128, 2 * kv_heads, width), generator=generator, device=like.device, dtype=like.dtype)
    query = torch.randn((2, heads, width), generator=generator, device=like.device, dtype=like.dtype)
    positions = torch.tensor([5, 100], device=like.device)
    try:
        found, expected = (way.prepare(positions, 128, 128)(query, memory).float() for way in (flash, masked))
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return masked  # A GPU before Ampere, or another torch, in which the private operator takes other arguments.
    return flash if float((found - expected).norm()) < 0.02 * float(expected.norm()) else masked
