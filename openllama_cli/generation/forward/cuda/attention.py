"""Decode attention of every slot over its own positions, in a form that a CUDA graph can replay.

The number of positions differs between slots and grows with every step, while a graph replays the same kernels with the same
arguments: so the lengths have to be read from memory. Flash attention can do that; other kernels need a mask.

Shapes: S = slots, H, K = query and key/value heads, D' = padded head size, P = positions of a slot, L = positions read.
"""

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# [S, H, D'] queries and a layer's [S, P, 2 K, D'] keys and values → [S, H, D'].
Attend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class MaskedAttention:
    """Any of torch's attention kernels, with a mask.

    any_length: whether the cost does not depend on L, so that L can always be P.
    """

    any_length = False

    def __init__(self, kv_heads: int, scale: float) -> None:
        self._kv_heads, self._scale = kv_heads, scale

    def prepare(self, positions: torch.Tensor, length: int, slot_length: int) -> Attend:
        """For one step: positions, int64 [S], of the new tokens, which are already in their slots; L and P."""
        later = (torch.arange(length, device=positions.device) > positions[:, None])[:, None, None]  # [S, 1, 1, L]

        def attend(query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            keys, values = memory[:, :length].transpose(1, 2).split(self._kv_heads, dim=1)  # [S, K, L, D'] each
            mask = torch.zeros(later.shape, device=query.device, dtype=query.dtype).masked_fill(later, -torch.inf)
            # The H / K queries of a key head take the place of a prompt's tokens. Flash attention has no mask argument.
            grouped = query.unflatten(1, (self._kv_heads, -1))
            with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
                attended = scaled_dot_product_attention(grouped, keys, values, mask, scale=self._scale)
            return attended.flatten(1, 2)

        return attend


class FlashAttention(MaskedAttention):
    """FlashAttention-2 (Dao 2023) with the number of keys per slot in a tensor. Private in torch, so it is probed."""

    any_length = True

    def prepare(self, positions: torch.Tensor, length: int, slot_length: int) -> Attend:
        starts = torch.arange(len(positions) + 1, device=positions.device, dtype=torch.int32)
        # Unused slots are at the last position: one key is enough for them.
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


def slot_attention(kv_heads: int, heads: int, width: int, scale: float, like: torch.Tensor) -> MaskedAttention:
    """The fastest kind that works on this device. width: D'. like: a tensor of the device and dtype."""
    masked = MaskedAttention(kv_heads, scale)
    if like.device.type != "cuda":
        return masked
    flash = FlashAttention(kv_heads, scale)
    generator = torch.Generator(like.device).manual_seed(0)
    memory = torch.randn((2, 128, 2 * kv_heads, width), generator=generator, device=like.device, dtype=like.dtype)
    query = torch.randn((2, heads, width), generator=generator, device=like.device, dtype=like.dtype)
    positions = torch.tensor([5, 100], device=like.device)
    try:
        found, expected = (kind.prepare(positions, 128, 128)(query, memory).float() for kind in (flash, masked))
    except (RuntimeError, TypeError, AttributeError):
        return masked  # A GPU before Ampere, or a torch in which the private operator has other arguments.
    return flash if float((found - expected).norm()) < 0.02 * float(expected.norm()) else masked
