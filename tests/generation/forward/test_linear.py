"""Linear layers with unquantized weights, each kind against float64, at every batch size that is computed differently."""

from typing import Any

import pytest
import torch

from openllama_cli.generation.forward import quantized_linear
from openllama_cli.generation.forward.linear import (
    DenseLinear,
    HalfLinear,
    NativeLinear,
    TileLinear,
    bfloat16_blocks,
    bfloat16_linear,
    float16_linear,
    onednn_disabled,
)
from openllama_cli.native import library
from tests.support.marks import random

pytestmark = pytest.mark.usefixtures("two_threads")  # How work is divided is tested too.


@pytest.mark.parametrize(
    ("kind", "stored", "computed", "tolerance"),
    [
        (DenseLinear, torch.float32, torch.float32, 1e-5),
        (DenseLinear, torch.bfloat16, torch.bfloat16, 1e-2),
        (TileLinear, torch.bfloat16, torch.bfloat16, 1e-2),
        (HalfLinear, torch.float16, torch.float32, 1e-2),
    ],
)
@pytest.mark.parametrize(
    ("rows", "biased", "out"),
    [(1, False, 70), (1, True, 150), (2, True, 70), (5, False, 150), (64, True, 150), (64, False, 70)],
)
def test_linear_layers_are_those_of_float64(
    kind: Any, stored: torch.dtype, computed: torch.dtype, tolerance: float, rows: int, biased: bool, out: int
) -> None:
    weight = random(out, 3000).to(stored)  # More weights than count as few, and than a block of HalfLinear has; or fewer.
    bias = random(out, seed=1).to(stored) if biased else None
    x = random(rows, 3000, seed=2).to(computed)
    y = kind(weight, bias)(x)
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert y.dtype == computed
    assert y.shape == (rows, out)
    assert (y.double() - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize(
    ("usable", "amx", "works", "bfloat16", "float16", "int8"),
    [
        (True, True, False, NativeLinear, NativeLinear, quantized_linear.NativeInt8Linear),
        (False, True, True, TileLinear, HalfLinear, quantized_linear.TileInt8Linear),
        (False, False, True, DenseLinear, HalfLinear, quantized_linear.OnednnInt8Linear),
        (False, True, False, TileLinear, HalfLinear, quantized_linear.PlainInt8Linear),
    ],
)
def test_the_kind_of_layer_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, usable: bool, amx: bool, works: bool, bfloat16: type, float16: type, int8: type
) -> None:
    monkeypatch.setattr(library, "usable", lambda: usable)
    monkeypatch.setattr(library, "has_amx", lambda: amx)
    monkeypatch.setattr(quantized_linear, "works", lambda _: works)
    assert type(bfloat16_linear(random(4, 4).bfloat16())) is bfloat16
    assert type(float16_linear(random(4, 4).half())) is float16
    assert quantized_linear.int8_kind.__wrapped__() is int8


def test_blocks_of_a_float16_matrix_are_its_rows_in_bfloat16() -> None:
    weight = random(300, 3000).half()
    blocks = [block.clone() for block in bfloat16_blocks(weight)]
    assert len(blocks) > 1
    assert torch.equal(torch.cat(blocks), weight.bfloat16())


def test_onednn_is_as_it_was_after_an_error() -> None:
    before = torch._C._get_mkldnn_enabled()

    def fail() -> None:
        with onednn_disabled():
            assert not torch._C._get_mkldnn_enabled() or not torch.backends.mkldnn.is_available()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch._C._get_mkldnn_enabled() == before
