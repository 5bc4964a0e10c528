"""All decoder layers for one new token per row in one call. Only where `library.usable`.

The same kernels as `matmul` and `layer`, and bit for bit their results, without what Python takes between them: a tenth of a
decode step.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from openllama_cli.native.crowding import Crowding
from openllama_cli.native.library import SMALL, call
from openllama_cli.native.matmul import Kind, check


@dataclass(frozen=True)
class Matrix:
    """Weights of a linear layer without a bias, as `matmul` takes them."""

    kind: Kind
    weight: torch.Tensor
    scales: torch.Tensor | None
    out: int


@dataclass(frozen=True)
class Layer:
    """One decoder layer: its norms, [hidden], of the activations' dtype, and its linear layers.

    query_key_value, gate_up: separate layers, or all of them fused into one.
    """

    attention_norm: torch.Tensor
    query_key_value: Sequence[Matrix]
    output: Matrix
    mlp_norm: torch.Tensor
    gate_up: Sequence[Matrix]
    down: Matrix


class _Matrix(ctypes.Structure):
    _fields_ = [("weights", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("out", ctypes.c_int64), ("kind", ctypes.c_int64)]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm")),
        *((name, _Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_int64) for name in ("count", "hidden", "intermediate", "heads", "kv_heads", "size", "small")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
    ]


class Decoder:
    """The layers of a model. heads, kv_heads: of queries, and of keys and values. size: of a head. scale: of attention scores.

    Raises ValueError for weights that the kernels would misread.
    """

    def __init__(self, layers: Sequence[Layer], *, heads: int, kv_heads: int, size: int, eps: float, scale: float) -> None:
        self._layers = layers  # Keeps the weights' memory.
        self._dtype = layers[0].attention_norm.dtype
        hidden, intermediate = layers[0].output.out, layers[0].gate_up[0].out * len(layers[0].gate_up) // 2
        sizes = (hidden, intermediate, heads, kv_heads, size)
        self._per_row = 4 * (2 * (heads + 2 * kv_heads) * size + heads * size + 2 * hidden + 3 * intermediate)
        array = (_Layer * len(layers))(*(self._described(layer, *sizes) for layer in layers))
        self._decoder = _Decoder(array, len(layers), *sizes, SMALL, eps, scale)
        self._crowding = Crowding()
        self._heads, self._kv_heads, self._size, self._hidden = heads, kv_heads, size, hidden

    def _described(self, layer: Layer, hidden: int, intermediate: int, heads: int, kv_heads: int, size: int) -> _Layer:
        outs = [sum(matrix.out for matrix in group) for group in (layer.query_key_value, layer.gate_up)]
        fits = outs == [(heads + 2 * kv_heads) * size, 2 * intermediate] and (layer.output.out, layer.down.out) == (
            hidden,
            hidden,
        )
        inputs = [hidden, hidden, heads * size, intermediate]
        for width, group in zip(inputs, (layer.query_key_value, layer.gate_up, [layer.output], [layer.down]), strict=True):
            for matrix in group:
                check(matrix.kind, matrix.weight, matrix.scales, matrix.out)
                columns = matrix.weight.shape[1] * (2 if matrix.kind == Kind.INT4 else 1)
                fits &= 0 <= columns - width < 128 if matrix.kind == Kind.INT4 else columns == width
        for norm in (layer.attention_norm, layer.mlp_norm):
            fits &= norm.shape == (hidden,) and norm.dtype == self._dtype and norm.is_contiguous()
        if not fits:
            raise ValueError(f"the kernels do not accept layers of {outs}, {layer.output.out} and {layer.down.out} outputs")
        query, key, value = _padded(layer.query_key_value, 3)
        gate, up = _padded(layer.gate_up, 2)
        output, down = _described(layer.output), _described(layer.down)
        return _Layer(layer.attention_norm.data_ptr(), layer.mlp_norm.data_ptr(), query, key, value, output, gate, up, down)

    def __call__(
        self,
        hidden: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        caches: Sequence[Sequence[tuple[torch.Tensor, torch.Tensor]]],
        lengths: Sequence[int],
    ) -> torch.Tensor:
        """hidden [n, hidden] of one new token per row → the same after the last layer. It overwrites its argument.

        cosine, sine: [n, D] of the same dtype. caches: of each layer the keys and values of each row; they get the new ones;
        lengths: see `layer.attend`. Raises MemoryError, and ValueError for what does not fit.
        """
        rows, layers = len(hidden), len(self._layers)
        capacities = [keys.shape[1] for keys, _ in caches[0]]
        fits = len(caches) == layers and len(lengths) == rows and all(map(int.__lt__, lengths, capacities))
        for of_layer in caches:
            for number, pair in enumerate(of_layer):
                shape = (self._kv_heads, capacities[number], self._size)
                fits &= all(x.shape == shape and x.dtype == torch.bfloat16 and x.is_contiguous() for x in pair)
        for x, width in ((hidden, self._hidden), (cosine, self._size), (sine, self._size)):
            fits &= x.shape == (rows, width) and x.dtype == self._dtype and x.is_contiguous()
        if not fits:
            raise ValueError(f"{hidden.dtype} {list(hidden.shape)} and {len(caches)} caches do not fit the decoder's layers")
        keys, values = ([pair[part].data_ptr() for of_layer in caches for pair in of_layer] for part in (0, 1))
        memory = torch.empty(rows * self._per_row, dtype=torch.uint8)
        arguments: list[Any] = [
            ctypes.addressof(self._decoder),
            *(x.data_ptr() for x in (hidden, cosine, sine)),
            *((ctypes.c_void_p * (layers * rows))(*addresses) for addresses in (keys, values)),
            *((ctypes.c_int64 * rows)(*numbers) for numbers in (lengths, capacities)),
            memory.data_ptr(),
        ]
        with self._crowding.step(rows) as threads:
            call("decode", *arguments, rows, self._dtype == torch.float32, work=SMALL, threads=threads)
        return hidden


def _described(matrix: Matrix | None) -> _Matrix:
    if matrix is None:
        return _Matrix()
    scales = None if matrix.scales is None else matrix.scales.data_ptr()
    return _Matrix(matrix.weight.data_ptr(), scales, matrix.out, matrix.kind)


def _padded(matrices: Sequence[Matrix], count: int) -> list[_Matrix]:
    """Where they are fused, the others have no weights."""
    return [_described(matrix) for matrix in [*matrices, *[None] * (count - len(matrices))]]
