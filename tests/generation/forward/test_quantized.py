"""Quantized linear layers and the forward pass on them, against dense arithmetic and transformers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

from openllama_cli.errors import OlcError
from openllama_cli.generation.forward import quantized_linear, weights
from openllama_cli.generation.forward.cache import KVCache
from openllama_cli.generation.forward.quantized_linear import (
    Int4Linear,
    NativeInt4Linear,
    NativeInt8Linear,
    OnednnInt8Linear,
    PlainInt8Linear,
    TileInt8Linear,
    int4_works,
    quantize_rows,
    works,
)
from openllama_cli.generation.session import choose_forward
from openllama_cli.models.loading.load import LoadedModel, load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.quantize import load as quantize_load
from openllama_cli.models.quantize.rounding import NativeLayout, TorchLayout, fit_groups, int4_groups, int8_rows
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.native import INT4_GROUP, library
from tests.support.marks import error, needs_any_int4, needs_kernels, random
from tests.support.models.tiny_models import VOCAB, random_llama, write_tiny_llama

pytestmark = pytest.mark.usefixtures("two_threads")  # How work is divided is tested too.

# Every batch size with two sizes, the widest of which alone suits torch's weight-only operator, up to 8 rows.
ROWS_AND_SIZES = [
    *((1, (70, 200)), (1, (256, 192)), (3, (33, 48)), (3, (5, 3))),
    *((8, (5, 3)), (8, (256, 192)), (20, (33, 48)), (20, (256, 192))),
]
needs_onednn = pytest.mark.skipif(not works(OnednnInt8Linear), reason="oneDNN's int8 matmul does not work on this processor")
needs_tiles = pytest.mark.skipif(not works(TileInt8Linear), reason="torch's int8 matmul is slow on this processor")
INTEGER = [
    pytest.param(OnednnInt8Linear, marks=needs_onednn),
    pytest.param(TileInt8Linear, marks=needs_tiles),
    pytest.param(NativeInt8Linear, marks=needs_kernels),
]
needs_int4 = pytest.mark.skipif(not int4_works(), reason="torch's int4 matmul does not work on this processor")


@pytest.mark.parametrize(("rows", "size"), ROWS_AND_SIZES, ids=str)
@pytest.mark.parametrize("kind", [*INTEGER, PlainInt8Linear])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_layers_are_near_dense_ones(size: tuple[int, int], kind: Any, rows: int, dtype: torch.dtype) -> None:
    weight, bias, x = random(*size), random(size[0], seed=1), random(rows, size[1], seed=2).to(dtype)
    y = kind(*int8_rows(weight), bias)(x)
    assert y.dtype == dtype
    assert error(y, linear(x.float(), weight, bias)) < 0.015


@pytest.mark.parametrize("kind", INTEGER)
def test_an_int8_row_does_not_depend_on_its_neighbors_and_none_on_one_that_is_not_a_number(kind: Any) -> None:
    layer, x = kind(*int8_rows(random(128, 192))), random(6, 192, seed=1)
    x[3] *= 1000
    x[4, 5] = torch.nan
    y = layer(x)
    assert torch.equal(y[1:2], layer(x[1:2]))
    assert y.isnan().all(1).tolist() == y.isnan().any(1).tolist() == [False] * 4 + [True, False]
    assert torch.equal(layer(torch.zeros(1, 192)), torch.zeros(1, 128))


@pytest.mark.parametrize(("dtype", "middle"), [(torch.uint8, 128), (torch.int8, 0)])
def test_activations_are_rounded_to_half_a_step(dtype: torch.dtype, middle: int) -> None:
    x = torch.cat([random(5, 100), torch.zeros(1, 100), random(1, 100) * 1e30])
    levels, scale = quantize_rows(x, dtype)
    assert levels.dtype == dtype
    assert ((levels.float() - middle) * scale - x).abs().le(scale * 0.501).all()


@pytest.mark.parametrize("kind", INTEGER)
def test_a_wrong_or_slow_layer_is_noticed(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, x: right(self, x) + 1)
    assert not quantized_linear._is_exact(kind)
    monkeypatch.setattr(kind, "__call__", right)
    assert quantized_linear._is_exact(kind)
    monkeypatch.setattr(quantized_linear, "_least_seconds", lambda f, x: 1.0 if isinstance(f, kind) else 0.1)
    assert not quantized_linear._is_fast(kind)


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        pytest.param(TorchLayout(), Int4Linear, marks=needs_int4),
        pytest.param(NativeLayout(), NativeInt4Linear, marks=needs_kernels),
    ],
    ids=["torch", "native"],
)
@pytest.mark.parametrize(("rows", "size"), ROWS_AND_SIZES, ids=str)
def test_int4_layers_are_those_of_the_rounded_weights(layout: Any, kind: Any, size: tuple[int, int], rows: int) -> None:
    weight, bias, x = random(*size), random(size[0], seed=1), random(rows, size[1], seed=2)
    packed, parameters = int4_groups(weight, layout)
    planned = layout.plan("x", *size)
    assert [packed.shape, parameters.shape] == [planned["x.weight"].shape, planned["x.parameters"].shape]
    groups = torch.nn.functional.pad(weight, (0, -size[1] % INT4_GROUP)).unflatten(1, (-1, INT4_GROUP))
    levels, scale, zero = fit_groups(groups)
    rounded = ((levels - 8) * scale[..., None] + zero[..., None]).flatten(1)[:, : size[1]]
    assert error(rounded, weight) < 0.1
    y = kind(packed, parameters, size[0], bias)(x)
    assert y.shape == (rows, size[0])
    assert error(y, linear(x, rounded, bias)) < 0.02


def test_int4_rounding_beats_min_and_max() -> None:
    groups = torch.distributions.StudentT(4.0).sample((64, 8, INT4_GROUP))
    levels, scale, zero = fit_groups(groups.clone())
    assert levels.min() >= 0
    assert levels.max() <= 15
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    plain = ((groups - low) / (high - low) * 15).round() * (high - low) / 15 + low
    assert error((levels - 8) * scale[..., None] + zero[..., None], groups) < 0.97 * error(plain, groups)


def test_int4_rounding_keeps_constant_groups() -> None:
    groups = torch.tensor([0.0, 0.25, -3.0])[:, None, None].expand(3, 1, INT4_GROUP)
    levels, scale, zero = fit_groups(groups)
    assert torch.allclose((levels - 8) * scale[..., None] + zero[..., None], groups, rtol=0.005)


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def open_folder(path: Path, **options: Any) -> LoadedModel:
    return load(OpenedModel.of(ModelFolder(path, "tiny")), ModelSpec(device="cpu", **options))


@pytest.fixture(params=[pytest.param(True, marks=needs_kernels), False], ids=["kernels", "torch"])
def _kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With olc's own kernels and without."""
    monkeypatch.setattr(library, "usable", lambda: request.param)
    quantized_linear.int8_kind.cache_clear()
    yield
    quantized_linear.int8_kind.cache_clear()


@pytest.mark.usefixtures("_own_cache", "_kernels")
# Errors of random weights grow from layer to layer; trained ones are kinder, see test_quantized_quality.
@pytest.mark.parametrize(("method", "largest"), [("int8", 0.1), pytest.param("int4", 0.7, marks=needs_any_int4)])
@pytest.mark.parametrize(("dtype", "tie"), [("float32", True), ("bfloat16", False)])
def test_logits_of_odd_sizes_and_grouped_queries_are_near_the_models(
    tmp_path: Path, method: Any, largest: float, dtype: Any, tie: bool
) -> None:
    folder = write_tiny_llama(tmp_path / "model", heads=6, kv_heads=2, intermediate=100, tie=tie)
    expected = choose_forward(open_folder(folder, dtype="float32"))
    loaded = open_folder(folder, dtype=dtype, quantize=method)
    ours = choose_forward(loaded)
    own = library.library() if library.usable() else None
    kernels = f" {own.tier.label}" if own and dtype == "bfloat16" else ""
    assert ours.name == f"lean {method}{kernels}"
    assert loaded.precision == f"{method} weights, {dtype} activations"
    prompt = [1, *range(50, 120)]
    cache, reference = KVCache(80), KVCache(80)
    logits, wanted = ours.prefill(prompt, cache, every=True), expected.prefill(prompt, reference, every=True)
    assert error(logits, wanted) < largest
    assert error(ours.decode([7], [cache]), expected.decode([7], [reference])) < largest


@pytest.mark.usefixtures("_own_cache")
def test_biases_and_scaled_rotary_embeddings_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = scaling | {"original_max_position_embeddings": 64, "rope_theta": 1e4}
    sizes = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "initializer_range": 0.05}
    random_llama(attention_bias=True, mlp_bias=True, rope_parameters=rope, **sizes).save_pretrained(tmp_path / "model")
    shutil.copy(tiny_model / "tokenizer.model", tmp_path / "model")
    prompt = [1, *range(50, 120)]
    logits = [
        choose_forward(open_folder(tmp_path / "model", dtype="float32", **options)).prefill(prompt, KVCache(80), every=True)
        for options in ({}, {"quantize": "int8"})
    ]
    assert error(logits[1], logits[0]) < 0.05


@needs_tiles
@pytest.mark.usefixtures("_own_cache")
def test_a_fallback_for_one_kind_of_layer_goes_with_the_kernels_between_them(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's integer matmuls return transposed memory, column by column."""
    prompt = [1, *range(50, 80)]
    wanted = choose_forward(open_folder(tiny_model, dtype="float32")).prefill(prompt, KVCache(40))
    monkeypatch.setattr(weights, "int8_kind", lambda: TileInt8Linear)
    found = choose_forward(open_folder(tiny_model, dtype="bfloat16", quantize="int8")).prefill(prompt, KVCache(40))
    assert error(found, wanted) < 0.2


@pytest.mark.usefixtures("_own_cache")
def test_an_int4_layer_that_does_not_work_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_load, "int4_layout", TorchLayout)
    monkeypatch.setattr(weights, "int4_works", lambda: False)
    with pytest.raises(OlcError, match="does not compute int4 matmuls correctly") as refused:
        choose_forward(open_folder(tiny_model, quantize="int4"))
    assert refused.value.remedy == "use --quantize int8"
