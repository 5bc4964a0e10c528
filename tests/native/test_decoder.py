"""All decoder layers in one call: bit for bit what the kernels give one by one."""

from itertools import chain

import pytest
import torch

from openllama_cli.native import layer
from openllama_cli.native.decoder import Decoder, Layer, Matrix
from openllama_cli.native.matmul import Kind, matmul
from tests.native.test_matmul import weights
from tests.support.marks import needs_kernels, random

pytestmark = [needs_kernels, pytest.mark.usefixtures("tier", "two_threads")]

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, SIZE, CAPACITY = 130, 300, 6, 2, 34, 20
QUERIES, KEYS = HEADS * SIZE, KV_HEADS * SIZE
EPS, SCALE = 1e-6, SIZE**-0.5

Caches = list[list[tuple[torch.Tensor, torch.Tensor]]]


def matrix(kind: Kind, out: int, inputs: int) -> Matrix:
    weight, scales, _ = weights(kind, out, inputs)
    small = 1e-3 if kind in (Kind.INT8, Kind.INT4) else 0.1
    return Matrix(kind, weight if scales is not None else weight * small, None if scales is None else scales * small, out)


def layers(kind: Kind, dtype: torch.dtype, *, fused: bool) -> list[Layer]:
    def made(seed: int) -> Layer:
        attention, mlp = ([QUERIES + 2 * KEYS], [2 * INTERMEDIATE]) if fused else ([QUERIES, KEYS, KEYS], [INTERMEDIATE] * 2)
        return Layer(
            random(HIDDEN, seed=seed).to(dtype),
            [matrix(kind, out, HIDDEN) for out in attention],
            matrix(kind, HIDDEN, QUERIES),
            random(HIDDEN, seed=seed + 1).to(dtype),
            [matrix(kind, out, HIDDEN) for out in mlp],
            matrix(kind, HIDDEN, INTERMEDIATE),
        )

    return [made(1), made(3)]


def empty_caches(rows: int) -> Caches:
    shape = (KV_HEADS, CAPACITY, SIZE)
    return [[(torch.ones(shape).bfloat16(), torch.ones(shape).bfloat16()) for _ in range(rows)] for _ in range(2)]


def multiplied(x: torch.Tensor, matrices: list[Matrix], sizes: list[int]) -> tuple[torch.Tensor, ...]:
    return torch.cat([matmul(one.kind, one.weight, one.scales, x, one.out) for one in matrices], dim=1).split(sizes, dim=1)


def one_by_one(
    given: list[Layer], hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, caches: Caches, lengths: list[int]
) -> torch.Tensor:
    for one, of_layer in zip(given, caches, strict=True):
        normed = layer.rms_norm(hidden, one.attention_norm, EPS)
        query, key, value = multiplied(normed, list(one.query_key_value), [QUERIES, KEYS, KEYS])
        query, key = layer.apply_rotary(query, cosine, sine, SIZE), layer.apply_rotary(key, cosine, sine, SIZE)
        value = value.unflatten(-1, (KV_HEADS, SIZE)).bfloat16().contiguous()
        attended = layer.attend(query, key, value, of_layer, lengths, SCALE, hidden.dtype)
        hidden = hidden + multiplied(attended, [one.output], [HIDDEN])[0]
        gate, up = multiplied(layer.rms_norm(hidden, one.mlp_norm, EPS), list(one.gate_up), [INTERMEDIATE] * 2)
        hidden = hidden + multiplied(layer.silu_mul(gate, up), [one.down], [HIDDEN])[0]
    return hidden


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(("rows", "dtype"), [(1, torch.float32), (3, torch.bfloat16), (17, torch.float32)])
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_is_the_kernels_one_by_one(kind: Kind, rows: int, dtype: torch.dtype, fused: bool) -> None:
    given = layers(kind, dtype, fused=fused)
    decoder = Decoder(given, heads=HEADS, kv_heads=KV_HEADS, size=SIZE, eps=EPS, scale=SCALE)
    caches, others = empty_caches(rows), empty_caches(rows)
    for step in range(2):
        hidden, cosine, sine = (random(rows, width, seed=step + width).to(dtype) for width in (HIDDEN, SIZE, SIZE))
        lengths = [step + row % 5 for row in range(rows)]
        wanted = one_by_one(given, hidden, cosine, sine, others, lengths)
        assert wanted.isfinite().all()
        assert torch.equal(decoder(hidden.clone(), cosine, sine, caches, lengths), wanted)
    for ours, theirs in zip(chain(*caches), chain(*others), strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_what_does_not_fit_is_refused() -> None:
    given = layers(Kind.FLOAT16, torch.float32, fused=False)
    sizes = {"heads": HEADS, "kv_heads": KV_HEADS, "size": SIZE}
    decoder = Decoder(given, **sizes, eps=EPS, scale=SCALE)
    hidden, angles, caches = random(1, HIDDEN), random(1, SIZE), empty_caches(1)
    decoder(hidden.clone(), angles, angles, caches, [CAPACITY - 1])
    for wrong in (
        lambda: decoder(hidden, angles, angles, caches, [CAPACITY]),
        lambda: decoder(hidden, angles, angles, caches[:1], [0]),
        lambda: decoder(hidden.bfloat16(), angles, angles, caches, [0]),
        lambda: decoder(hidden, angles[:, 1:], angles, caches, [0]),
        lambda: Decoder(given, **sizes | {"heads": HEADS + 1}, eps=EPS, scale=SCALE),
        lambda: Decoder(layers(Kind.FLOAT16, torch.bfloat16, fused=False)[:1] + given, **sizes, eps=EPS, scale=SCALE),
    ):
        with pytest.raises(ValueError, match="do not"):
            wrong()
