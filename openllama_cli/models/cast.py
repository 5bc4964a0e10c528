"""Weights in another type than they are stored in, as fast as this machine writes memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from openllama_cli.models.checkpoint import Checkpoint
from openllama_cli.models.tensor_source import TensorSource

if TYPE_CHECKING:
    import torch

# Numbers that are converted at a time: their float32 copy stays in the processor's cache.
_BLOCK = 1 << 18


def cast(tensor: "torch.Tensor", dtype: "torch.dtype") -> "torch.Tensor":
    """`tensor.to(dtype)`. From float16 to bfloat16 it goes by way of float32, to the same bits.

    torch converts these two one number at a time: that takes three times as long.
    """
    import torch

    if (tensor.dtype, dtype) != (torch.float16, torch.bfloat16):
        return tensor.to(dtype)
    result = torch.empty(tensor.shape, dtype=dtype)
    wide = torch.empty(min(_BLOCK, tensor.numel()))
    if tensor.numel():
        for target, block in zip(result.view(-1).split(_BLOCK), tensor.reshape(-1).split(_BLOCK), strict=True):
            target.copy_(wide[: len(block)].copy_(block))
    return result


def cast_weights(checkpoint: Checkpoint, dtype: "torch.dtype") -> "Iterator[tuple[str, torch.Tensor]]":
    """All weights under their Hugging Face names, one after another; the checkpoint's pages do not pile up in memory.

    Raises what torch and safetensors raise for files that changed since they were inspected.
    """
    source = TensorSource(checkpoint)
    for name in checkpoint.tensors:
        yield name, cast(source.get(name), dtype)
