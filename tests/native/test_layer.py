"""The kernels of a layer besides matmuls against float64, and a complete model with them against one with torch's operators."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention, silu

from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.lean import LeanForward, NativeOps, TorchOps
from openllama_cli.generation.forward.weights import from_transformers
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.native import layer, library
from tests.support.marks import needs_kernels, random
from tests.support.models.tiny_models import write_tiny_llama

pytestmark = [needs_kernels, pytest.mark.usefixtures("tier", "two_threads")]

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
# Half a unit in the last place of bfloat16; float32 sums in another order.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-8}


@DTYPES
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1, 3200), (5, 100), (64, 4096)])
def test_norms(dtype: torch.dtype, rows: int, size: int) -> None:
    x, weight = (random(rows, size + 7)[:, :size] * 3).to(dtype), random(size, seed=1).to(dtype)
    wide = x.double()
    wanted = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6) * weight.double()
    found = layer.rms_norm(x, weight, 1e-6)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=TOLERANCE[dtype], atol=1e-6)


@DTYPES
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 8640), (64, 300)])
def test_the_activation(dtype: torch.dtype, rows: int, size: int) -> None:
    """From where the exponential is nothing to where it overflows."""
    gate, up = (random(rows, 2 * size) * 30).to(dtype).split(size, dim=-1)
    gate = gate.clone()
    gate[0, 0] = -200
    found = layer.silu_mul(gate, up)
    torch.testing.assert_close(found.double(), silu(gate.double()) * up.double(), rtol=TOLERANCE[dtype], atol=1e-30)


def test_the_activation_is_right_for_every_bfloat16_number() -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)[None]
    every = every[every.isfinite()][None]
    found = layer.silu_mul(every.float(), torch.ones_like(every).float())
    torch.testing.assert_close(found.double(), silu(every.double()), rtol=1e-6, atol=1e-36)  # Beyond e to the 88 is infinity.
    odd = torch.tensor([[torch.nan, torch.inf, -torch.inf]])
    assert layer.silu_mul(odd, torch.ones(1, 3)).isnan().tolist() == [[True, False, True]]


@DTYPES
@pytest.mark.parametrize(("rows", "heads", "size"), [(1, 1, 2), (3, 4, 100), (64, 32, 128)])
def test_rotary_embeddings(dtype: torch.dtype, rows: int, heads: int, size: int) -> None:
    x = random(rows, heads * size + 5).to(dtype)[:, : heads * size]
    angles = random(rows, size // 2, seed=1).repeat(1, 2)
    cosine, sine = angles.cos().to(dtype), angles.sin().to(dtype)
    wide = x.double().unflatten(-1, (heads, size))
    first, second = wide.chunk(2, dim=-1)
    wanted = wide * cosine.double()[:, None] + torch.cat((-second, first), dim=-1) * sine.double()[:, None]
    found = layer.apply_rotary(x, cosine, sine, size)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=2.0**-8, atol=2e-6)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(1, 1, 2), (32, 32, 100), (6, 2, 64), (2, 1, 256), (4, 4, 34)])
def test_attention(heads: int, kv_heads: int, size: int, number: int) -> None:
    """Every shape of heads with every batch of lengths; both dtypes with each of them."""
    lengths = ([0], [17], [3, 700, 64])[number]
    dtype = (torch.float32, torch.bfloat16)[(number + size // 2) % 2]
    rows = len(lengths)
    query, key, value = (random(rows, number, size, seed=number).bfloat16() for number in (heads, kv_heads, kv_heads))
    caches, wanted = [], []
    for row, length in enumerate(lengths):
        keys, values = (random(kv_heads, length + 3, size, seed=row + part).bfloat16() for part in (10, 20))
        caches.append((keys.clone(), values.clone()))
        keys[:, length], values[:, length] = key[row], value[row]
        past = (query[row, :, None], keys[:, : length + 1], values[:, : length + 1])
        wanted.append(
            scaled_dot_product_attention(*(x.double()[None] for x in past), scale=0.3, enable_gqa=True)[0].flatten(),
        )
    others = [tuple(tensor.clone() for tensor in cache) for cache in caches]
    found = layer.attend(query, key, value, caches, lengths, 0.3, dtype)
    assert found.dtype == dtype
    assert found.shape == (rows, heads * size)
    torch.testing.assert_close(found.double(), torch.stack(wanted), rtol=TOLERANCE[dtype], atol=1e-4)
    for row, length in enumerate(lengths):
        for part, new in ((0, key), (1, value)):
            assert torch.equal(caches[row][part][:, length], new[row])
            others[row][part][:, length] = new[row]
            assert torch.equal(caches[row][part], others[row][part])  # Nothing else is written.


def full(length: int) -> dict[str, Any]:
    """Arguments of `attend` for a row with room for four positions."""
    new, cache = torch.zeros(1, 2, 8).bfloat16(), torch.zeros(2, 4, 8).bfloat16()
    rest = {"caches": [(cache, cache.clone())], "lengths": [length], "scale": 1.0, "dtype": torch.float32}
    return dict.fromkeys(("query", "key", "value"), new) | rest


@pytest.mark.parametrize(
    "wrong",
    [
        full(4),
        full(3) | {"caches": []},
        full(3) | {"lengths": []},
        full(3) | {"value": torch.zeros(1, 2, 8)},
        full(3) | {"query": torch.zeros(1, 2, 6).bfloat16()},
        full(3) | {"key": torch.zeros(1, 1, 8).bfloat16()},
    ],
    ids=["full", "no cache", "no length", "float32", "other size", "other heads"],
)
def test_attention_writes_nowhere_else(wrong: dict[str, Any]) -> None:
    layer.attend(**full(3))
    with pytest.raises(ValueError, match="the kernel attend does not accept"):
        layer.attend(**wrong)


def test_what_would_be_read_wrongly_is_refused() -> None:
    x, angles = torch.zeros(2, 16), torch.zeros(2, 8)
    for call in (
        lambda: layer.rms_norm(x.half(), torch.ones(16).half(), 1e-6),
        lambda: layer.rms_norm(x, torch.ones(16).bfloat16(), 1e-6),
        lambda: layer.rms_norm(x, torch.ones(15), 1e-6),
        lambda: layer.silu_mul(x, x.bfloat16()),
        lambda: layer.silu_mul(x, x[:, :8]),
        lambda: layer.apply_rotary(x, angles, angles, 4),
        lambda: layer.apply_rotary(x, angles, angles.bfloat16(), 8),
    ):
        with pytest.raises(ValueError, match="does not accept"):
            call()


def test_rows_may_be_transposed() -> None:
    x = random(16, 3).T
    assert torch.equal(layer.silu_mul(x, x), layer.silu_mul(x.contiguous(), x.contiguous()))


def test_attention_to_large_scores_and_to_what_is_not_a_number() -> None:
    query, key, value = (random(1, 2, 64, seed=seed).bfloat16() for seed in range(3))
    keys = torch.zeros(2, 4, 64).bfloat16()
    values = random(2, 4, 64, seed=5).bfloat16()
    keys[:, 1] = query[0] * 1e4
    large = layer.attend(query, key, value, [(keys, values)], [3], 1.0, torch.float32)
    torch.testing.assert_close(large.view(2, 64), values[:, 1].float())
    query[0, 0, 3] = torch.nan
    odd = layer.attend(query, key, value, [(keys, values)], [3], 1.0, torch.float32).view(2, 64)
    assert odd[0].isnan().all()
    assert odd[1].isfinite().all()


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_a_model_with_the_kernels_is_as_near_to_float32_as_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Any, kv_heads: int
) -> None:
    folder = ModelFolder(write_tiny_llama(tmp_path, dtype=stored, kv_heads=kv_heads), "tiny")

    def logits(dtype: Any, usable: bool, ops: type) -> torch.Tensor:
        monkeypatch.setattr(library, "usable", lambda: usable)
        forward = LeanForward(from_transformers(load(OpenedModel.of(folder), ModelSpec(device="cpu", dtype=dtype)).model))
        assert type(forward._ops) is ops
        caches = [KVCache(90), KVCache(30)]
        found = [forward.prefill([1, *range(50, 50 + count)], cache) for cache, count in zip(caches, (80, 3), strict=True)]
        found += [forward.decode([7 + step, 9], caches) for step in range(5)]
        found += [forward.decode([11], caches[:1])]
        return torch.cat(found)

    exact = logits("float32", True, TorchOps)
    errors = [
        float((logits(stored, usable, ops) - exact).norm() / exact.norm())
        for usable, ops in ((True, NativeOps), (False, TorchOps))
    ]
    assert errors[0] < 1.2 * errors[1]
    assert math.isfinite(errors[0])
