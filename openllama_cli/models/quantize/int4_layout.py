"""The two orders in which int4 weights are stored: the one of olc's own kernels, and the one of torch's operator."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from openllama_cli.models.checkpoint.safetensors_files import TensorInfo
from openllama_cli.native import INT4_BLOCK, INT4_GROUP

if TYPE_CHECKING:
    import torch


class Int4Layout(ABC):
    """An order of bytes. rows, columns: to multiples of which a matrix is filled up. name: tells it from other ones on disk."""

    rows: int
    columns: int
    name: tuple[str, ...]

    @abstractmethod
    def pack(self, levels: "torch.Tensor") -> "torch.Tensor":
        """int32 levels 0 … 15, [out', in'] → uint8 [out', in' / 2]."""

    @abstractmethod
    def arrange(self, parameters: "torch.Tensor") -> "torch.Tensor":
        """Scales and zeros, [out', in' / INT4_GROUP, 2], in the layout's order."""

    @abstractmethod
    def _parameters(self, out: int, groups: int) -> tuple[int, ...]:
        """The shape of what `arrange` returns."""

    def plan(self, name: str, out: int, columns: int) -> dict[str, TensorInfo]:
        """Types and shapes of a matrix's tensors."""
        out += -out % self.rows
        columns += -columns % self.columns
        return {
            f"{name}.parameters": TensorInfo("bfloat16", self._parameters(out, columns // INT4_GROUP)),
            f"{name}.weight": TensorInfo("uint8", (out, columns // 2)),
        }


class NativeLayout(Int4Layout):
    """For `native.matmul`: rows one after another, with their groups' parameters in the same order."""

    rows, columns = 1, INT4_BLOCK
    name = ("native", "1")

    def pack(self, levels: "torch.Tensor") -> "torch.Tensor":
        from openllama_cli.native.matmul import pack_int4

        return pack_int4(levels)

    def arrange(self, parameters: "torch.Tensor") -> "torch.Tensor":
        return parameters

    def _parameters(self, out: int, groups: int) -> tuple[int, ...]:
        return (out, groups, 2)


class TorchLayout(Int4Layout):
    """For torch's operator: rows in 16s, and in 64s in the order that it reads fastest, which depends on the processor."""

    rows, columns = 64, INT4_GROUP

    @property
    def name(self) -> tuple[str, ...]:  # type: ignore[override]
        """With what the order depends on."""
        import torch

        return (torch.__version__, torch.backends.cpu.get_cpu_capability())

    def pack(self, levels: "torch.Tensor") -> "torch.Tensor":
        import torch

        packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        return packed

    def arrange(self, parameters: "torch.Tensor") -> "torch.Tensor":
        return parameters.transpose(0, 1).contiguous()

    def _parameters(self, out: int, groups: int) -> tuple[int, ...]:
        return (groups, out, 2)


def int4_layout() -> Int4Layout:
    """The layout that this machine reads fastest."""
    from openllama_cli.native.library import usable

    return NativeLayout() if usable() else TorchLayout()
