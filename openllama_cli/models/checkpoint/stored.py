"""What headers say of stored weights: their types and shapes, and where each is in its files."""

import math
from dataclasses import dataclass
from pathlib import Path

# torch's name of a type, its bytes, and what .safetensors files and torch.save call it ("": that format has it not).
_TYPES = (
    ("float64", 8, "F64", "DoubleStorage"),
    ("float32", 4, "F32", "FloatStorage"),
    ("float16", 2, "F16", "HalfStorage"),
    ("bfloat16", 2, "BF16", "BFloat16Storage"),
    ("int64", 8, "I64", "LongStorage"),
    ("int32", 4, "I32", "IntStorage"),
    ("int16", 2, "I16", "ShortStorage"),
    ("int8", 1, "I8", "CharStorage"),
    ("uint64", 8, "U64", ""),
    ("uint32", 4, "U32", ""),
    ("uint16", 2, "U16", ""),
    ("uint8", 1, "U8", "ByteStorage"),
    ("bool", 1, "BOOL", "BoolStorage"),
    ("float8_e4m3fn", 1, "F8_E4M3", ""),
    ("float8_e5m2", 1, "F8_E5M2", ""),
)
ITEM_SIZE = {dtype: size for dtype, size, _, _ in _TYPES}
SAFETENSORS_CODES = {dtype: code for dtype, _, code, _ in _TYPES}
TORCH_STORAGES = {dtype: storage for dtype, _, _, storage in _TYPES if storage}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor. dtype: torch's name for it, such as "float16"."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_SIZE[self.dtype]


@dataclass(frozen=True)
class StoredBlocks:
    """The bytes of a tensor in a GGUF file: its type there ("Q4_K"), where they begin, and how many there are."""

    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class StoredTensor:
    """Where one weight is stored. name: in the files. files: one, or all that hold a slice of it, in the order of the slices.

    dim: the dimension it is cut along, None if it is not. heads: how many rotary heads its rows make up where they are in
    Meta's order, else 0. blocks: in a GGUF file.
    """

    name: str
    files: tuple[Path, ...]
    dim: int | None = None
    heads: int = 0
    blocks: StoredBlocks | None = None


@dataclass(frozen=True)
class StoredBytes:
    """A storage in a PyTorch file: where its bytes begin, how many there are, and their CRC-32 (0: none was written)."""

    offset: int
    count: int
    crc: int


@dataclass(frozen=True)
class StoredWeights:
    """What the headers of a folder's weight files, in order, say by Hugging Face name.

    tensors: in the order of the files, as they are once slices are joined; layout: where each of them lies. storages: of
    PyTorch files, for `torch_files.check_storages`. plain: whether transformers finds the same weights in the folder by itself.
    """

    files: tuple[Path, ...]
    tensors: dict[str, TensorInfo]
    layout: dict[str, StoredTensor]
    storages: dict[Path, tuple[StoredBytes, ...]]
    plain: bool
