"""The loop against `model.generate` and full forward passes, on a tiny Llama with grouped-query attention."""

import random
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.reference import generate_rows
from openllama_cli.generation.decode.request import GO_ON, Request, Scored
from openllama_cli.generation.forward.cache import PREFILL_CHUNK, KVCache, PrefixCache
from openllama_cli.generation.forward.cuda.graphs import GraphForward
from openllama_cli.generation.forward.lean import LeanForward, supports_lean
from openllama_cli.generation.forward.transformers_forward import Forward, TransformersForward
from openllama_cli.generation.forward.weights import from_transformers
from tests.support.marks import needs_gpu
from tests.support.models.fakes import scored_rows, token_rows
from tests.support.models.tiny_models import greedy, load_llama, random_llama, write_tiny_llama

CPU = torch.device("cpu")
CONTEXT = 384


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "model", context=CONTEXT, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_llama(folder)


@pytest.fixture(params=["transformers", "lean"])
def forward(request: pytest.FixtureRequest, model: Any) -> Forward:
    """Every forward pass there is, on the same weights."""
    return LeanForward(from_transformers(model)) if request.param == "lean" else TransformersForward(model, CPU)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(0)
    # One token, around the prefill grid, and anything between: more rows than are padded to one multiple.
    lengths = [1, 2, PREFILL_CHUNK - 1, PREFILL_CHUNK, PREFILL_CHUNK + 1, 300, *(rng.randrange(1, 100) for _ in range(6))]
    return [[1, *(rng.randrange(3, 400) for _ in range(length - 1))] for length in lengths]


def run(forward: Forward, prompts: list[list[int]], max_rows: int, config: SamplingConfig) -> dict[int, list[Scored]]:
    return scored_rows(decode_rows(forward, requests(prompts, config), max_rows=max_rows))


def requests(prompts: list[list[int]], config: SamplingConfig, **options: Any) -> list[Request]:
    return [Request(row, prompt, config, **options) for row, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def generated(model: Any, prompts: list[list[int]]) -> dict[float, list[list[int]]]:
    """What `model.generate` makes of the first prompts, by repetition penalty."""
    return {penalty: [greedy(model, prompt, 12, repetition_penalty=penalty) for prompt in prompts[:8]] for penalty in (1, 1.3)}


def test_greedy_equals_generate_token_for_token(
    model: Any, forward: Forward, prompts: list[list[int]], generated: dict[float, list[list[int]]]
) -> None:
    own_attention = model.config._attn_implementation
    for penalty, expected in generated.items():
        rows = requests(prompts[:8], SamplingConfig(12, repetition_penalty=penalty))
        assert token_rows(decode_rows(forward, rows, max_rows=4 if penalty == 1 else 16)) == expected
    assert model.config._attn_implementation == own_attention, "generate keeps its own attention"


@pytest.mark.parametrize("config", [SamplingConfig(max_tokens=8, logprobs=3), SamplingConfig(8, 0.8, 0.9, seed=4, logprobs=3)])
def test_rows_are_the_same_at_every_batch_size_to_the_last_bit(
    forward: Forward, prompts: list[list[int]], config: SamplingConfig
) -> None:
    alone = run(forward, prompts, 1, config)
    assert run(forward, prompts, 4, config) == alone
    assert run(forward, prompts, 16, config) == alone
    assert run(forward, prompts[:1], 16, config)[0] == alone[0]


def test_logprobs_equal_a_full_forward_pass(model: Any, forward: Forward, prompts: list[list[int]]) -> None:
    scored: dict[int, list[Scored]] = {}
    filling = [1, *range(3, 400), *range(3, 400)][:CONTEXT]  # Leaves no position for a token.
    for event in decode_rows(forward, requests([*prompts[:7], filling], SamplingConfig(5, logprobs=5), score=True)):
        new = event.prompt if event.prefilled else [event.scored] if event.scored else []
        scored.setdefault(event.row, []).extend(new)
    assert len(scored[7]) == CONTEXT
    for row in scored.values():
        with torch.no_grad():
            full = model(torch.tensor([[entry.token for entry in row]])).logits[0].log_softmax(-1)
        assert row[0].logprob is None
        for place, entry in enumerate(row[1:]):
            assert entry.logprob == pytest.approx(float(full[place, entry.token]), abs=1e-4)
            best = full[place].topk(5)
            assert [value for _, value in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("max_rows", [1, 4])
def test_a_shared_prefix_runs_once_and_changes_nothing_to_the_last_bit(forward: Forward, max_rows: int) -> None:
    rng = random.Random(1)
    shots = [[1, *(rng.randrange(3, 400) for _ in range(length))] for length in (150, 70)]
    prompts = [shots[row % 2] + [rng.randrange(3, 400) for _ in range(rng.randrange(0, 90))] for row in range(12)]
    prompts += [prompts[0], prompts[0][: 2 * PREFILL_CHUNK]]
    config = SamplingConfig(4, logprobs=2)
    plain = run(forward, prompts, max_rows, config)
    with patch.object(forward, "prefill", wraps=forward.prefill) as prefill:
        reused = scored_rows(decode_rows(forward, requests(prompts, config), max_rows=max_rows, prefixes=PrefixCache()))
    assert reused == plain
    assert sum(len(call.args[0]) for call in prefill.call_args_list) < 0.65 * sum(map(len, prompts))


def test_the_transformers_engine_gives_the_same_events(model: Any, prompts: list[list[int]]) -> None:
    rows = requests(prompts[:4], SamplingConfig(8, logprobs=2), score=True)
    ours = list(decode_rows(TransformersForward(model, CPU), rows, max_rows=1))
    theirs = list(generate_rows(model, CPU, rows))
    assert len(ours) == len(theirs) == 4 * 9
    for one, other in zip(ours, theirs, strict=True):
        assert one.prefilled == other.prefilled
        if not one.prefilled:
            assert (one.row, one.finish_reason) == (other.row, other.finish_reason)
            assert one.scored is not None
            assert other.scored is not None
            assert one.scored.token == other.scored.token
            assert one.scored.logprob == pytest.approx(other.scored.logprob, abs=1e-4)


def test_the_transformers_engine_samples_by_any_seed_and_temperature_that_the_loop_takes(
    model: Any, prompts: list[list[int]]
) -> None:
    def draw(temperature: float, seed: int) -> list[list[int]]:
        config = SamplingConfig(8, temperature=temperature, seed=seed)
        return token_rows(generate_rows(model, CPU, requests(prompts[1:2], config)))

    assert draw(1.0, 3) == draw(1.0, 3)
    assert len({tuple(draw(1.0, seed)[0]) for seed in (3, -5, 10**30)}) == 3
    assert draw(1e-42, 1) == draw(0, 1)


def test_the_transformers_engine_can_be_left_in_the_middle(model: Any, prompts: list[list[int]]) -> None:
    told: list[int] = []
    events = generate_rows(
        model, CPU, [Request(0, prompts[1], SamplingConfig(200), watch=lambda token: told.append(token) or GO_ON)]
    )
    for event in events:
        if not event.prefilled:
            break
    events.close()  # type: ignore[attr-defined]
    assert len(told) < 200


LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 8},
        {"head_dim": 10},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {"rope_parameters": {**LLAMA_3, "rope_theta": 5e5, "original_max_position_embeddings": 64}},
    ],
    ids=str,
)
def test_the_lean_pass_and_slots_have_the_arithmetic_of_every_kind_of_llama(changes: dict[str, Any]) -> None:
    model = random_llama(hidden_size=96, intermediate_size=80, max_position_embeddings=CONTEXT, **changes)
    ids = [1, *(random.Random(0).randrange(200) for _ in range(100))]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    for forward in (LeanForward(from_transformers(model)), GraphForward(model, capture=False)):
        cache = forward.new_cache(len(ids))
        ours = [forward.prefill(ids[:-3], cache, every=True), *(forward.decode([token], [cache]) for token in ids[-3:])]
        torch.testing.assert_close(torch.cat(ours), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_the_lean_pass_in_narrow_types_is_as_close_to_float32_as_transformers(
    folder: Path, model: Any, prompts: list[list[int]], dtype: torch.dtype, device: str
) -> None:
    narrow = load_llama(folder, dtype).to(device)
    lean = LeanForward(from_transformers(narrow))
    enabled = torch._C._get_mkldnn_enabled()
    prompt = prompts[5]
    cache = KVCache(len(prompt) + 1)
    ours = torch.cat([lean.prefill(prompt, cache, every=True), lean.decode([7], [cache])]).cpu()
    assert torch._C._get_mkldnn_enabled() == enabled, "a setting of the whole process was changed"
    with torch.no_grad():
        ids = torch.tensor([[*prompt, 7]])
        exact = model(ids).logits[0]
        # On a CPU float16 weights are multiplied in bfloat16 when there are several rows.
        theirs = (narrow.bfloat16() if device == "cpu" else narrow)(ids.to(device)).logits[0].float().cpu()
    error, theirs_error = ((one - exact).norm() / exact.norm() for one in (ours, theirs))
    assert 0 < error < 1.2 * theirs_error


def test_what_moves_its_weights_is_left_to_transformers(folder: Path) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    model = load_llama(folder)
    assert supports_lean(model)
    add_hook_to_module(model.model.layers[1], ModelHook())
    assert not supports_lean(model)


@needs_gpu
def test_greedy_on_a_gpu_equals_generate_in_float32(folder: Path, prompts: list[list[int]]) -> None:
    model = load_llama(folder).to("cuda")
    ours = decode_rows(LeanForward(from_transformers(model)), requests(prompts, SamplingConfig(max_tokens=20)), max_rows=8)
    assert token_rows(ours) == [greedy(model, prompt) for prompt in prompts]
