"""Matmuls by olc's own kernels against float64: every kind of weights, batch size, dtype and edge."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from openllama_cli.generation.forward.linear import NativeLinear
from openllama_cli.native import INT4_BLOCK, INT4_GROUP, library, sources
from openllama_cli.native.matmul import Kind, matmul, pack_int4
from tests.support.marks import error, needs_kernels, random

pytestmark = [needs_kernels, pytest.mark.usefixtures("tier", "two_threads")]  # How work is divided is tested too.

# Odd sizes, less than one tile, complete blocks, and the widths of OpenLLaMA 3B.
SIZES = [(1, 1), (16, 128), (70, 200), (33, 3200), (100, 8640)]
# One; a tile of them, fewer and more; all tiles; more than one pass over the weights.
ROWS = [1, 2, 15, 16, 17, 33, 64, 65, 129]
DTYPES = [torch.float32, torch.bfloat16]
# Every kind with every size, by gemv (1 row) and by gemm (17 rows), and with every batch size; both dtypes with all of these.
CASES = [(kind, size, rows, DTYPES[(n + kind) % 2]) for kind in Kind for n, size in enumerate(SIZES) for rows in (1, 17)]
CASES += [(kind, SIZES[(n + kind) % 5], rows, DTYPES[(n + kind) % 2]) for kind in Kind for n, rows in enumerate(ROWS)]
CASES += [(kind, SIZES[(n + kind) % 5], rows, DTYPES[(n + kind + 1) % 2]) for kind in Kind for n, rows in enumerate((1, 2, 17))]


def weights(kind: Kind, out: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Weights of a kind and their scales, as the kernels take them, and what they stand for in float64."""
    generator = torch.Generator().manual_seed(out + inputs)
    if kind in (Kind.BFLOAT16, Kind.FLOAT16):
        weight = random(out, inputs).to(torch.bfloat16 if kind == Kind.BFLOAT16 else torch.float16)
        return weight, None, weight.double()
    if kind == Kind.INT8:
        weight = torch.randint(-127, 128, (out, inputs), generator=generator).to(torch.int8)
        scale = torch.rand(out, generator=generator)
        return weight, scale, weight.double() * scale.double()[:, None]
    padded = inputs + -inputs % INT4_BLOCK
    levels = torch.randint(0, 16, (out, padded), generator=generator)
    lines = torch.rand(out, padded // INT4_GROUP, 2, generator=generator).bfloat16()
    scale, zero = lines.double().unbind(-1)
    expected = (levels.double().unflatten(1, (-1, INT4_GROUP)) - 8) * scale[..., None] + zero[..., None]
    return pack_int4(levels), lines, expected.flatten(1)[:, :inputs]


# Weights that are rounded to bfloat16 on the way differ by a few thousandths; sums are float32 or exact in all kinds.
TOLERANCE = {Kind.BFLOAT16: 1e-5, Kind.FLOAT16: 3e-3, Kind.INT8: 2e-4, Kind.INT4: 4e-3}


@pytest.mark.parametrize(("kind", "size", "rows", "dtype"), CASES, ids=str)
def test_matmuls_are_those_of_float64(kind: Kind, size: tuple[int, int], rows: int, dtype: torch.dtype) -> None:
    weight, scales, expected = weights(kind, *size)
    x = random(rows, size[1], seed=2).bfloat16().to(dtype)
    found = matmul(kind, weight, scales, x, size[0])
    assert found.dtype == dtype
    assert found.shape == (rows, size[0])
    assert error(found, x.double() @ expected.T) < TOLERANCE[kind] + (4e-3 if dtype == torch.bfloat16 else 0)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_integer_matmuls_are_exact_and_the_same_at_every_number_of_rows(rows: int) -> None:
    weight, scales, _ = weights(Kind.INT8, 70, 8640)
    x = random(rows, 8640, seed=1)
    batch = matmul(Kind.INT8, weight, scales, x, 70)
    assert torch.equal(batch, torch.cat([matmul(Kind.INT8, weight, scales, row[None], 70) for row in x]))
    expected = torch.randint(-127, 128, (rows, 8640), generator=torch.Generator().manual_seed(1)).float()
    expected[:, 0] = 127  # The largest of each row, so that a unit is a 128th.
    wanted = (expected.double() @ weight.double().T).float()
    assert torch.equal(matmul(Kind.INT8, weight, torch.ones(70), expected, 70), wanted)


@pytest.mark.parametrize(("kind", "inputs"), [(Kind.INT8, 65_536), (Kind.INT4, 20_000)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_largest_activations_and_the_longest_int8_rows_do_not_overflow(kind: Kind, inputs: int, value: float) -> None:
    weight, scales, expected = weights(kind, 16, inputs)
    if kind == Kind.INT8:
        weight[:8], weight[8:] = 127, -127
        expected = weight.double() * scales.double()[:, None]  # type: ignore[union-attr]
    for rows in (1, 3, 5):
        x = torch.full((rows, inputs), value)
        assert torch.allclose(matmul(kind, weight, scales, x, 16).double(), x.double() @ expected.T, rtol=1e-2)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_what_is_not_finite_stays_so_in_its_row_alone(kind: Kind, rows: int) -> None:
    weight, scales, expected = weights(kind, 40, 300)
    for odd in (torch.nan, torch.inf, -torch.inf):
        x = random(rows, 300)
        x[0, 7] = odd
        found = matmul(kind, weight, scales, x, 40)
        assert not found[0].isfinite().any()
        assert error(found[1:], x[1:].double() @ expected.T) < 0.01 if rows > 1 else True


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("rows", [1, 50])
def test_every_number_of_threads_does_the_same(kind: Kind, rows: int) -> None:
    weight, scales, _ = weights(kind, 333, 700)
    x = random(rows, 700)
    one = matmul(kind, weight, scales, x, 333, 1)
    assert all(torch.equal(matmul(kind, weight, scales, x, 333, threads), one) for threads in (1, 2, 3, 64))


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("inputs", [128, 200, 3200])
def test_an_output_does_not_depend_on_where_its_weights_lie(kind: Kind, inputs: int) -> None:
    weight, scales, _ = weights(kind, 203, inputs)
    x = random(1, inputs, seed=2)
    found = matmul(kind, weight, scales, x, 203, threads=2)
    order = torch.randperm(203, generator=torch.Generator().manual_seed(3))
    again = matmul(kind, weight[order], None if scales is None else scales[order], x, 203, threads=1)
    assert torch.equal(again, found[:, order])
    last = matmul(kind, weight[202:], None if scales is None else scales[202:], x, 1)
    assert torch.equal(last, found[:, 202:])


@pytest.mark.parametrize("kind", list(Kind))
def test_teams_of_changing_size_lose_no_threads_and_no_work(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """17 rows are packed in two pieces and multiplied in many; GNU's OpenMP ends threads that a team leaves out."""
    weight, scales, expected = weights(kind, 600, 300)
    x = random(17, 300)
    tasks, found = [], []
    for _ in range(5):
        found.append(matmul(kind, weight, scales, x, 600, 6))
        tasks.append({entry.name for entry in Path("/proc/self/task").iterdir()})
    assert len(set.union(*tasks[1:])) == len(tasks[1])
    assert all(error(y, x.double() @ expected.T) < TOLERANCE[kind] + 4e-3 for y in found)


@pytest.mark.parametrize("kind", list(Kind))
def test_memory_that_begins_anywhere_and_tiny_activations_are_read_rightly(kind: Kind) -> None:
    weight, scales, expected = weights(kind, 40, 300)
    moved = torch.empty(weight.numel() + 1, dtype=weight.dtype)[1:].view(weight.shape).copy_(weight)
    for rows in (1, 20):
        x = torch.empty(rows * 300 + 1)[1:].view(rows, 300).copy_(random(rows, 300))
        assert error(matmul(kind, moved, scales, x, 40), x.double() @ expected.T) < 0.01
        for tiny in (1e-25, 1e-38):
            assert matmul(kind, weight, scales, x * tiny, 40).abs().max() < tiny * 1e6


def test_no_rows_give_no_rows() -> None:
    assert matmul(Kind.BFLOAT16, torch.zeros(8, 16).bfloat16(), None, torch.zeros(0, 16), 8).shape == (0, 8)


def test_activations_may_be_a_slice_of_others() -> None:
    weight, _, expected = weights(Kind.BFLOAT16, 64, 100)
    x = random(8, 250).bfloat16()[::2, 50:150]
    assert error(matmul(Kind.BFLOAT16, weight, None, x, 64), x.double() @ expected.T) < 4e-3


def test_torchs_own_tiles_are_not_disturbed() -> None:
    """oneDNN keeps its own setting of the processor's tiles."""
    weight, _, expected = weights(Kind.BFLOAT16, 512, 1024)
    x = random(20, 1024).bfloat16()
    for rows in (20, 1, 7, 20):
        theirs = torch.nn.functional.linear(x[:rows], weight)
        ours = matmul(Kind.BFLOAT16, weight, None, x[:rows], 512)
        assert error(theirs, x[:rows].double() @ expected.T) < 5e-3
        assert error(ours, x[:rows].double() @ expected.T) < 5e-3


def test_two_threads_of_python_may_multiply_at_once() -> None:
    weight, scales, _ = weights(Kind.INT8, 2000, 512)
    inputs = [random(rows, 512, seed=rows) for rows in (3, 1)]
    wanted = [matmul(Kind.INT8, weight, scales, x, 2000) for x in inputs]

    def all_right(number: int) -> bool:
        found = (matmul(Kind.INT8, weight, scales, inputs[number], 2000) for _ in range(100))
        return all(torch.equal(one, wanted[number]) for one in found)

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(all_right, (0, 1)))


def test_a_bias_is_added_and_no_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, _, expected = weights(Kind.BFLOAT16, 30, 60)
    bias, x = random(30, seed=3), random(4, 60, seed=4)
    assert error(NativeLinear(Kind.BFLOAT16, weight, 30, bias=bias)(x), x.double() @ expected.T + bias) < 5e-3
    monkeypatch.setattr(library, "library", lambda: library.Library(sources.TIERS[0], {"matmul": lambda *arguments: 1}, None))
    with pytest.raises(MemoryError, match="no memory for the kernel matmul"):
        matmul(Kind.BFLOAT16, weight, None, x, 30)
