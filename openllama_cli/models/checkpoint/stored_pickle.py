"""The pickle in a PyTorch file, read without running it: a state dict becomes descriptions of its tensors.

A pickle is a program for a stack machine. This machine knows the instructions that torch.save writes for a state dict, and the
four names that they may refer to; it makes no object but dicts, tuples, numbers and descriptions. Python's own unpickler would
do more than is safe with bytes from elsewhere: a few hundred of them make tuples of tuples whose hash takes years.
(torch.load(weights_only=True) reads with a machine of the same kind, torch/_weights_only_unpickler.py.)
"""

import struct
from dataclasses import dataclass
from typing import Any

from openllama_cli.models.checkpoint.stored import TORCH_STORAGES
from openllama_cli.models.model_files import brief

# Some 250 bytes describe a tensor: this is a model of five hundred layers.
LONGEST_PICKLE = 2**20
_DTYPES = {("torch", storage): dtype for dtype, storage in TORCH_STORAGES.items()}
_ORDERED_DICT = ("collections", "OrderedDict")
_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_MOST_DIMENSIONS = 8
_LARGEST = 1 << 62


@dataclass(frozen=True)
class PickledStorage:
    """A storage: `items` numbers of type `dtype` in the file's entry data/`key`."""

    key: str
    dtype: str
    items: int


@dataclass(frozen=True)
class PickledTensor:
    """A tensor: a view of a storage. offset and stride in items."""

    storage: PickledStorage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def end(self) -> int:
        """One past the last item of the storage that this tensor reaches."""
        if 0 in self.shape:
            return 0
        return self.offset + 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))


class UnknownNameError(Exception):
    """The pickle refers to a name that plain weights do not need: str(error) is the name."""


def read_pickle(content: bytes) -> Any:
    """What a pickle describes: dicts, lists, tuples, numbers, texts, None, and tensors as PickledTensor.

    Takes time and memory in proportion to its length. Raises UnknownNameError, and ValueError, IndexError, KeyError,
    UnicodeDecodeError or struct.error for what is no pickle of a state dict.
    """
    return _Machine(content).run()


@dataclass(frozen=True)
class _Name:
    module: str
    name: str


class _Machine:
    """One run. A mark is the height of the stack when it was set."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        content, instructions = self._content, _INSTRUCTIONS
        while True:
            code = content[self._at]
            self._at += 1
            if code == _STOP:
                return self._stack.pop()
            instruction = instructions.get(code)
            if instruction is None:
                raise ValueError(f"instruction {code:#04x} at byte {self._at - 1}")
            instruction(self)

    def take(self, count: int) -> bytes:
        part = self._content[self._at : self._at + count]
        if len(part) < count:
            raise ValueError(f"ends in the middle of an instruction, at byte {self._at}")
        self._at += count
        return part

    def number(self, format_: str) -> int:
        return int(struct.unpack(format_, self.take(struct.calcsize(format_)))[0])

    def line(self) -> str:
        end = self._content.index(b"\n", self._at)
        text = self._content[self._at : end].decode()
        self._at = end + 1
        return text

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def tuple_of(self, count: int) -> None:
        start = len(self._stack) - count
        if start < 0:
            raise IndexError("the stack is empty")
        self._stack[start:] = [tuple(self._stack[start:])]

    def put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def set_items(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(pairs) % 2:
            raise ValueError("items of what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, (str, int, float, type(None))):
                raise ValueError(f"a key that is {brief(key)}")
            target[key] = value

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self.set_items([key, value])

    def append(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError("entries of what is no list")
        self._stack[-1].extend(values)

    def name(self) -> None:
        found = (self.line(), self.line())
        if found not in _DTYPES and found not in (_ORDERED_DICT, _TENSOR, _PARAMETER):
            raise UnknownNameError(f"{brief(found[0])}.{brief(found[1])}")
        self.push(_Name(*found))

    def storage(self) -> None:
        described = self._stack.pop()
        if type(described) is not tuple or len(described) != 5:
            raise ValueError("a storage that is not described as torch does it")
        kind, type_, key, _location, items = described
        dtype = _DTYPES.get((type_.module, type_.name)) if isinstance(type_, _Name) else None
        if type(kind) is not str or kind != "storage" or dtype is None or type(key) is not str or not _is_size(items):
            raise ValueError("a storage that is not described as torch does it")
        self.push(PickledStorage(key, dtype, items))

    def call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Name) or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        called = (function.module, function.name)
        if called == _TENSOR:
            self.push(_tensor(*arguments[:4]))
        elif called == _PARAMETER and arguments and isinstance(arguments[0], PickledTensor):
            self.push(arguments[0])
        elif called == _ORDERED_DICT and not arguments:
            self.push({})
        else:
            raise ValueError(f"a call of {brief(function.name)} with other arguments than torch gives it")

    def build(self) -> None:
        """The attributes of an OrderedDict, _metadata: nothing that weights need."""
        self._stack.pop()
        if type(self._stack[-1]) is not dict:
            raise ValueError("attributes of what is no dict")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> PickledTensor:
    plain = isinstance(storage, PickledStorage) and type(shape) is type(stride) is tuple
    if not plain or len(shape) != len(stride) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("a tensor that is not described as torch does it")
    if not all(_is_size(number) for number in (offset, *shape, *stride)):
        raise ValueError("a tensor whose sizes are not numbers from 0")
    return PickledTensor(storage, offset, shape, stride)


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < _LARGEST


def _long(machine: _Machine) -> None:
    machine.push(int.from_bytes(machine.take(machine.number("<B")), "little", signed=True))


_STOP = ord(".")
# By their names in pickletools: those that torch's own reader of weights knows, without the ones that make other objects.
_INSTRUCTIONS: dict[int, Any] = {
    0x80: lambda m: m.take(1),  # PROTO
    ord("}"): lambda m: m.push({}),  # EMPTY_DICT
    ord("]"): lambda m: m.push([]),  # EMPTY_LIST
    ord(")"): lambda m: m.push(()),  # EMPTY_TUPLE
    ord("N"): lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    ord("J"): lambda m: m.push(m.number("<i")),  # BININT
    ord("K"): lambda m: m.push(m.number("<B")),  # BININT1
    ord("M"): lambda m: m.push(m.number("<H")),  # BININT2
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    0x8A: _long,  # LONG1
    ord("X"): lambda m: m.push(m.take(m.number("<I")).decode("utf-8", "surrogatepass")),  # BINUNICODE
    ord("U"): lambda m: m.push(m.take(m.number("<B")).decode()),  # SHORT_BINSTRING
    ord("("): lambda m: m._marks.append(len(m._stack)),  # MARK
    ord("t"): lambda m: m.push(tuple(m.marked())),  # TUPLE
    0x85: lambda m: m.tuple_of(1),  # TUPLE1
    0x86: lambda m: m.tuple_of(2),  # TUPLE2
    0x87: lambda m: m.tuple_of(3),  # TUPLE3
    ord("s"): _Machine.set_item,  # SETITEM
    ord("u"): lambda m: m.set_items(m.marked()),  # SETITEMS
    ord("a"): lambda m: m.append([m._stack.pop()]),  # APPEND
    ord("e"): lambda m: m.append(m.marked()),  # APPENDS
    ord("q"): lambda m: m.put(m.number("<B")),  # BINPUT
    ord("r"): lambda m: m.put(m.number("<I")),  # LONG_BINPUT
    ord("h"): lambda m: m.push(m._memo[m.number("<B")]),  # BINGET
    ord("j"): lambda m: m.push(m._memo[m.number("<I")]),  # LONG_BINGET
    ord("c"): _Machine.name,  # GLOBAL
    ord("Q"): _Machine.storage,  # BINPERSID
    ord("R"): _Machine.call,  # REDUCE
    ord("b"): _Machine.build,  # BUILD
}
