"""The forward pass that decodes in slots: the same tokens as the lean one, whatever the slots went through.

The arithmetic of a captured step runs on any device; capturing itself needs a GPU.
"""

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from openllama_cli.generation import session
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.forward.cache import PrefixCache
from openllama_cli.generation.forward.cuda import graphs
from openllama_cli.generation.forward.cuda.attention import FlashAttention, MaskedAttention
from openllama_cli.generation.forward.cuda.graphs import GraphForward, supports_graphs
from openllama_cli.generation.forward.cuda.kernels import CudaKernels, TorchKernels
from openllama_cli.generation.forward.cuda.slots import POSITIONS, SlotCache, round_up
from openllama_cli.generation.forward.lean import LeanForward
from openllama_cli.generation.forward.transformers_forward import Forward
from openllama_cli.generation.forward.weights import from_transformers
from openllama_cli.generation.session import choose_forward, engines
from tests.support.marks import needs_gpu
from tests.support.models.fakes import token_rows
from tests.support.models.tiny_models import random_llama

CONTEXT = 1024


def make_model(dtype: torch.dtype = torch.float32, device: str = "cpu", **changes: Any) -> Any:
    sizes = {"hidden_size": 96, "intermediate_size": 80, "max_position_embeddings": CONTEXT}
    return random_llama(**sizes | changes).to(device, dtype)


@pytest.fixture(scope="module")
def model() -> Any:
    """Heads of 12 numbers: not a multiple of 8, as the 100 of OpenLLaMA-3B."""
    return make_model()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(0)
    lengths = [1, 2, 30, POSITIONS - 1, POSITIONS, 300, 700, *(rng.randrange(1, 60) for _ in range(9))]
    return [[1, *(rng.randrange(3, 300) for _ in range(length - 1))] for length in lengths]


def lean(model: Any) -> LeanForward:
    return LeanForward(from_transformers(model))


def taken(forward: Forward, prompts: Sequence[Sequence[int]], max_rows: int = 4, **options: Any) -> list[list[int]]:
    """Every row's tokens; rows end at different times, so that slots are handed on."""
    requests = [Request(row, prompt, SamplingConfig(3 + row % 5), **options) for row, prompt in enumerate(prompts)]
    return token_rows(decode_rows(forward, requests, max_rows=max_rows, prefixes=PrefixCache()))


@pytest.fixture(scope="module")
def expected(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """The tokens of the lean pass."""
    return taken(lean(model), prompts)


@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_rows_in_slots_take_the_tokens_of_the_lean_pass(
    model: Any, prompts: list[list[int]], expected: list[list[int]], max_rows: int
) -> None:
    assert taken(GraphForward(model, capture=False), prompts, max_rows) == expected


def test_drafts_are_verified_in_slots_too(model: Any) -> None:
    prompts = [[1, *[20, 21, 22, 23] * 6], [1, 5, 6, 5, 6]]
    forward = GraphForward(model, capture=False)
    assert taken(forward, prompts, speculate=4) == taken(lean(model), prompts)


def test_stacking_keeps_what_the_model_computes_and_its_memory() -> None:
    model = make_model(attention_bias=True)
    ids = torch.tensor([[1, 7, 20, 250]])
    before = model(ids).logits
    GraphForward(model, capture=False)
    assert torch.equal(model(ids).logits, before)
    attention = model.model.layers[0].self_attn
    storages = {part.weight.untyped_storage().data_ptr() for part in (attention.q_proj, attention.k_proj, attention.v_proj)}
    assert len(storages) == 1


def test_a_row_of_nonsense_leaves_nothing_in_its_slot(model: Any) -> None:
    forward = GraphForward(model, capture=False)
    spoiled = forward.new_cache(10)
    assert isinstance(spoiled, SlotCache)
    for layer in forward._pool.memory:
        layer[spoiled.slot].fill_(torch.nan)
    neighbor = forward.new_cache(10)
    forward.prefill([1, 5, 9], neighbor)
    beside = forward.decode([4], [neighbor])
    assert beside.isfinite().all()
    del spoiled
    successor = forward.new_cache(10)
    forward.prefill([1, 5, 9], successor)
    torch.testing.assert_close(forward.decode([4], [successor]), beside)


def test_rows_without_room_in_the_pool_decode_all_the_same(
    model: Any, prompts: list[list[int]], expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = GraphForward(model, capture=False)
    real, calls = forward._pool.acquire, 0

    def sometimes(capacity: int) -> SlotCache:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(capacity)

    monkeypatch.setattr(forward._pool, "acquire", sometimes)
    assert taken(forward, prompts) == expected


def test_waves_of_rows_that_end_together_stay_in_the_same_slots(model: Any) -> None:
    forward = GraphForward(model, capture=False)
    requests = [Request(row, [1, 5 + row], SamplingConfig(4)) for row in range(20)]
    slots = []
    for event in decode_rows(forward, requests, max_rows=4):
        slots.append(forward._pool.slots)
        assert event.error is None
    assert max(slots) == 4


@pytest.mark.parametrize(
    ("error", "told", "most"),
    [
        (
            RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines"),
            [
                "CUDA graphs cannot be captured here, so decoding is slower: "
                "CUDA error: operation not permitted when stream is capturing"
            ],
            1,
        ),
        # Each size is tried once.
        (torch.OutOfMemoryError("CUDA out of memory"), [], 4),
    ],
    ids=["not captured", "no room"],
)
def test_graphs_that_fail_are_done_without(
    model: Any,
    prompts: list[list[int]],
    expected: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
    told: list[str],
    most: int,
) -> None:
    tried, said = [], []

    def fail(*arguments: Any) -> None:
        tried.append(arguments)
        raise error

    monkeypatch.setattr(graphs, "_Graph", fail)
    assert taken(GraphForward(model, said.append), prompts[:3], 2) == expected[:3]
    assert said == told
    assert 1 <= len(tried) <= most


def test_a_model_whose_graphs_fail_runs_without_them(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: invalid device function\nCompile with TORCH_USE_CUDA_DSA")

    said: list[str] = []
    assert not supports_graphs(model), "graphs suit GPUs only"
    monkeypatch.setattr(graphs, "supports_graphs", lambda model: True)
    monkeypatch.setattr(graphs, "GraphForward", fail)
    forward = choose_forward(SimpleNamespace(model=model, input_device=model.device, quantized=None), said.append)
    assert type(forward) is LeanForward
    assert said == ["CUDA graphs cannot be used here, so decoding is slower: CUDA error: invalid device function"]


def test_decode_loops_share_a_forward_pass_until_memory_ran_out(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def make(*_: Any) -> LeanForward:
        made.append(lean(model))
        return made[-1]

    monkeypatch.setattr(session, "choose_forward", make)
    engine = engines(SimpleNamespace(model=model, input_device=model.device, quantized=None))
    assert not made
    for rows, count in ((8, 1), (8, 1), (4, 2), (4, 2), (8, 2)):
        steps = list(engine(rows)([Request(0, [1, 5], SamplingConfig(2))]))
        assert len(steps) == 3
        assert len(made) == count


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("max_rows", [1, 5, 16])
def test_captured_steps_are_those_that_were_captured(prompts: list[list[int]], dtype: torch.dtype, max_rows: int) -> None:
    model = make_model(dtype, "cuda")
    assert supports_graphs(model)
    said: list[str] = []
    captured = GraphForward(model, said.append)
    assert taken(captured, prompts, max_rows) == taken(GraphForward(model, capture=False), prompts, max_rows)
    assert captured._graphs
    assert not said


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 8, "head_dim": 100}, {"hidden_size": 32}])
def test_captured_steps_are_as_close_to_float32_as_transformers(
    prompts: list[list[int]], dtype: torch.dtype, changes: dict[str, Any]
) -> None:
    exact, narrow = make_model(torch.float32, "cuda", **changes), make_model(dtype, "cuda", **changes)
    forward = GraphForward(narrow)
    rows = [[*prompt, *range(3, 43)] for prompt in prompts]  # What is decoded is given.
    caches = [forward.new_cache(len(row)) for row in rows]
    for prompt, cache in zip(prompts, caches, strict=True):
        forward.prefill(prompt, cache)
    steps = [forward.decode([row[step - 40] for row in rows], caches) for step in range(40)]
    squares = [0.0, 0.0]
    for number, row in enumerate(rows):
        expected = exact(torch.tensor([row], device="cuda")).logits[0, -40:].cpu()
        theirs = narrow(torch.tensor([row], device="cuda")).logits[0, -40:].float().cpu()
        ours = torch.stack([logits[number] for logits in steps])
        for place, found in enumerate((ours, theirs)):
            squares[place] += float((found - expected).square().sum())
    assert 0 < squares[0] < 1.5 * squares[1]


@needs_gpu
def test_rotary_embeddings_that_depend_on_the_length_are_left_to_the_lean_pass() -> None:
    factors = [1.0] * (make_model(torch.float16).config.head_dim // 2)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors, "long_factor": factors}
    assert not supports_graphs(make_model(torch.float16, "cuda", rope_parameters=rope))
    assert not supports_graphs(make_model(torch.float32, "cuda"))


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "size", "slots"), [(8, 2, 12, 1), (32, 32, 100, 5), (32, 4, 64, 24)])
def test_compiled_kernels_and_flash_attention_compute_what_torch_operators_do(
    dtype: torch.dtype, heads: int, kv_heads: int, size: int, slots: int
) -> None:
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def close(found: torch.Tensor, expected: torch.Tensor) -> None:
        assert (found.float() - expected.float()).norm() < 0.01 * expected.float().norm()

    compiled, plain = CudaKernels(dtype, 1e-6, device), TorchKernels(1e-6)
    x, weight, both = random(slots, 3200), random(3200), random(slots, 2 * 8640)
    close(compiled.rms_norm(x, weight), plain.rms_norm(x, weight))
    close(compiled.silu_mul(both), plain.silu_mul(both))
    width, length = round_up(size, 8), 512
    qkv, cosine, sine = random(slots, heads + 2 * kv_heads, size), random(slots, size), random(slots, size)
    positions = torch.randint(0, length, (slots,), generator=generator, device=device)
    memories = [random(slots, length, 2 * kv_heads, width)]
    memories.append(memories[0].clone())
    queries = [
        kernels.apply_rotary(qkv, cosine, sine, positions, memory)
        for kernels, memory in zip((compiled, plain), memories, strict=True)
    ]
    close(*queries)
    close(*memories)
    ways = [way(kv_heads, 0.1).prepare(positions, length, length) for way in (FlashAttention, MaskedAttention)]
    close(*(attend(queries[0], memories[0]) for attend in ways))


@needs_gpu
def test_this_gpu_gets_the_compiled_kernels_and_flash_attention() -> None:
    step = GraphForward(make_model(torch.float16, "cuda"))._step
    assert isinstance(step._kernels, CudaKernels)
    assert isinstance(step.attention, FlashAttention)
