"""Rounding weights to 8 and 4 bits, and the two orders in which int4 weights are stored: the one of olc's own kernels, and that
of torch's operator. Nothing here knows models, and torch is imported when a function is called.

Blocks of rows at a time: their float32 copies stay in the processor's cache, and memory holds little besides the result.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from openllama_cli.models.checkpoint.stored import TensorInfo
from openllama_cli.native import INT4_BLOCK, INT4_GROUP

if TYPE_CHECKING:
    import torch


_BLOCK_ROWS = 256
# How far the range of a group is narrowed, in the search for the narrowing that costs least.
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
_REFITS = 2


class Int4Layout(ABC):
    """An order of bytes. rows, columns: to multiples of which a matrix is padded. name: tells it from other ones on disk.

    groups_first: scales and zeros are stored as [in' / INT4_GROUP, out', 2], else as [out', in' / INT4_GROUP, 2].
    """

    rows: int
    columns: int
    name: tuple[str, ...]
    groups_first: bool

    @abstractmethod
    def pack(self, levels: "torch.Tensor") -> "torch.Tensor":
        """int32 levels 0 … 15, [out', in'] → uint8 [out', in' / 2]."""

    def plan(self, name: str, out: int, columns: int) -> dict[str, TensorInfo]:
        """Types and shapes of a matrix's tensors."""
        out += -out % self.rows
        columns += -columns % self.columns
        groups = columns // INT4_GROUP
        return {
            f"{name}.parameters": TensorInfo("bfloat16", (groups, out, 2) if self.groups_first else (out, groups, 2)),
            f"{name}.weight": TensorInfo("uint8", (out, columns // 2)),
        }


class NativeLayout(Int4Layout):
    """For olc's own kernels (`native`): rows one after another, with their groups' parameters in the same order."""

    rows, columns = 1, INT4_BLOCK
    name = ("native", "1")
    groups_first = False

    def pack(self, levels: "torch.Tensor") -> "torch.Tensor":
        from openllama_cli.native.matmul import pack_int4

        return pack_int4(levels)


class TorchLayout(Int4Layout):
    """For torch's operator: rows in 16s, and in 64s in the order that it reads fastest, which depends on the processor."""

    rows, columns = 64, INT4_GROUP
    groups_first = True

    @property
    def name(self) -> tuple[str, ...]:  # pyrefly: ignore[bad-override]
        """With what the order depends on."""
        import torch

        return (torch.__version__, torch.backends.cpu.get_cpu_capability())

    def pack(self, levels: "torch.Tensor") -> "torch.Tensor":
        import torch

        packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        return packed


def int4_layout() -> Int4Layout:
    """The layout that this machine reads fastest."""
    from openllama_cli.native.library import usable

    return NativeLayout() if usable() else TorchLayout()


def int8_rows(weight: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """[out, in] → int8 [out, in] and scales, float32 [out]: w = scale * q, |q| at most 127."""
    import torch

    quantized = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0])
    for start in range(0, weight.shape[0], _BLOCK_ROWS):
        rows = weight[start : start + _BLOCK_ROWS].float()
        scale = rows.abs().amax(1).clamp_min(1e-30) / 127
        scales[start : start + len(rows)] = scale
        quantized[start : start + len(rows)] = (rows / scale[:, None]).round_().to(torch.int8)
    return quantized, scales


def int4_groups(weight: "torch.Tensor", layout: Int4Layout) -> "tuple[torch.Tensor, torch.Tensor]":
    """[out, in] → packed bytes, and scales and zeros, both in a layout's order.

    w = scale * (q - 8) + zero, q in 0 … 15, for each INT4_GROUP of inputs; padding rows and inputs are zeros.
    """
    import torch
    from torch.nn.functional import pad

    packed, parameters = [], []
    columns = -weight.shape[1] % layout.columns
    for start in range(0, weight.shape[0], _BLOCK_ROWS):
        rows = weight[start : start + _BLOCK_ROWS].float()
        rows = pad(rows, (0, columns, 0, -len(rows) % layout.rows))
        levels, scale, zero = fit_groups(rows.unflatten(1, (-1, INT4_GROUP)))
        packed.append(layout.pack(levels.flatten(1).int()))
        parameters.append(torch.stack([scale, zero], dim=-1).bfloat16())
    stacked = torch.cat(parameters)
    return torch.cat(packed), stacked.transpose(0, 1).contiguous() if layout.groups_first else stacked


def fit_groups(groups: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """float32 [out, n, INT4_GROUP] → levels 0 … 15 of the same shape, scales and zeros [out, n]; w = scale * (q - 8) + zero.

    Minimises the squared error of the weights: the range of a group is narrowed as far as that helps (clipping a few outliers
    for finer steps), then levels and line are fitted alternately, each to the other, as half-quadratic quantization does
    (Badri and Shaji 2023) with the fit of llama.cpp's k-quants: least squares for scale and zero together. Scales and zeros are
    rounded to bfloat16, as they are stored, before the levels are chosen for the last time.
    """
    import torch

    low, high = groups.amin(-1), groups.amax(-1)
    middle = (low + high) / 2
    best = torch.full_like(low, torch.inf)
    scale, zero = torch.ones_like(low), middle.clone()
    for shrink in _SHRINKS:
        step = ((high - low) * shrink / 15).clamp_min(1e-12)
        start = middle + step / 2  # Levels -8 … 7 lie half a step to the left of the middle.
        error = _error(groups, step, start)
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better, step, scale), torch.where(better, start, zero)
    for _ in range(_REFITS):
        scale, zero = _refit(groups, _levels(groups, scale, zero), scale, zero)
    scale, zero = scale.bfloat16().float(), zero.bfloat16().float()
    return _levels(groups, scale, zero) + 8, scale, zero


def _levels(groups: "torch.Tensor", scale: "torch.Tensor", zero: "torch.Tensor") -> "torch.Tensor":
    return ((groups - zero[..., None]) / scale[..., None]).round_().clamp_(-8, 7)


def _refit(
    groups: "torch.Tensor", levels: "torch.Tensor", scale: "torch.Tensor", zero: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """The line through (level, weight) of each group by least squares; as it was where all levels are the same."""
    import torch

    level, weight = levels.mean(-1), groups.mean(-1)
    spread = (levels * levels).mean(-1) - level * level
    slope = ((levels * groups).mean(-1) - level * weight) / spread.clamp_min(1e-12)
    usable = (spread > 1e-6) & (slope > 1e-12)
    return torch.where(usable, slope, scale), torch.where(usable, weight - slope * level, zero)


def _error(groups: "torch.Tensor", scale: "torch.Tensor", zero: "torch.Tensor") -> "torch.Tensor":
    levels = _levels(groups, scale, zero)
    return (levels.mul_(scale[..., None]).add_(zero[..., None]) - groups).square_().sum(-1)
