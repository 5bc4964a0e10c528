"""Everything that config.json may say of a Llama, from its files to text, against transformers and a float64 pass.

Each case is a model with a rotary embedding of its own; its other properties (output matrix tied, untied or stored though tied;
biases, key/value heads, head size, activation, padded vocabulary) go round, so that most pairs of them meet somewhere.
"""

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.reference import compare, generate_rows
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.forward.cache import PrefixCache
from openllama_cli.generation.forward.transformers_forward import TransformersForward
from openllama_cli.generation.session import choose_forward, make_engine
from openllama_cli.generation.text.stream import stream
from openllama_cli.models.loading.load import LoadedModel, load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from tests.support.models.fakes import scored_rows, token_rows
from tests.support.models.tiny_models import VOCAB, tokenizer_model_bytes

CPU = torch.device("cpu")
CONTEXT, ORIGINAL, NEW = 128, 80, 5
# Half of a head's size numbers each, made when the size is known.
LONGROPE = {"type": "longrope", "short_factor": "short", "long_factor": "long"}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 2.0}
ROPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "theta": {"rope_theta": 500.0},
    "theta in parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "rope_theta": 7.0},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4}, "rope_theta": 100},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "rope_theta": 100.0},
    "llama3": {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}, "rope_theta": 500.0},
    "llama3, original beside": {"rope_scaling": LLAMA3, "rope_theta": 500.0, "original_max_position_embeddings": 16},
    "llama3, original in both": {
        "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64, "rope_theta": 500.0},
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_scaling": YARN | {"original_max_position_embeddings": 64, "attention_factor": 1.3}},
    "yarn, betas": {"rope_scaling": YARN | {"beta_fast": 8, "beta_slow": 2, "truncate": False}, "rope_theta": 50.0},
    "yarn, scales": {
        "rope_parameters": YARN | {"factor": None, "mscale": 0.7, "mscale_all_dim": 0.3, "original_max_position_embeddings": 32}
    },
    "longrope": {"rope_scaling": LONGROPE | {"original_max_position_embeddings": ORIGINAL}},
    "longrope, original beside": {"rope_scaling": LONGROPE, "original_max_position_embeddings": ORIGINAL},
    "longrope, factors": {
        "rope_parameters": LONGROPE | {"factor": 3.0, "attention_factor": 1.2, "original_max_position_embeddings": ORIGINAL}
    },
    "proportional": {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0}},
}
GOING_ROUND: list[tuple[str, list[Any]]] = [
    ("head", ["untied", "tied", "stored though tied"]),
    ("biases", [(), ("attention_bias",), ("mlp_bias", "attention_bias"), ("mlp_bias",)]),
    ("kv_heads", [4, 2, 1]),
    ("head_dim", [None, 6, 12]),
    ("hidden_act", ["silu", "silu", "gelu", "silu", "swish"]),
    ("padding", [0, 40]),
]


def properties(number: int) -> dict[str, Any]:
    """One value of each, another mixture for each number."""
    return {name: values[(number + number // 3 * place) % len(values)] for place, (name, values) in enumerate(GOING_ROUND)}


def write(folder: Path, rope: dict[str, Any], number: int) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    chosen = properties(number)
    head_dim = chosen["head_dim"] or 8
    raw: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": chosen["kv_heads"],
        "head_dim": chosen["head_dim"],
        "hidden_act": chosen["hidden_act"],
        "vocab_size": VOCAB + chosen["padding"],
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": chosen["head"] != "untied",
        **dict.fromkeys(chosen["biases"], True),
        **copy.deepcopy(rope),
    }
    for key in ("rope_scaling", "rope_parameters"):
        for name, value in raw.get(key, {}).items():
            if isinstance(value, str) and name.endswith("factor"):
                factors = [1.0 + place / 10 for place in range(head_dim // 2)]
                raw[key][name] = factors if value == "short" else [10 * factor for factor in factors]
    torch.manual_seed(number)
    model = LlamaForCausalLM(LlamaConfig(**copy.deepcopy(raw), initializer_range=0.4))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in state:
        if name.endswith("bias"):
            state[name].normal_()
    if chosen["head"] == "tied":
        del state["lm_head.weight"]
    elif chosen["head"] == "stored though tied":
        state["lm_head.weight"].normal_(std=0.4)
    # Rows of the padding that would be drawn at every second token.
    state["model.embed_tokens.weight" if chosen["head"] == "tied" else "lm_head.weight"][VOCAB:] *= 1.3
    folder.mkdir()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(raw | {"bos_token_id": 1, "eos_token_id": 2}))
    (folder / "tokenizer.model").write_bytes(tokenizer_model_bytes())
    return folder


def prompts() -> list[list[int]]:
    """Short ones, ones of two chunks of the prefill grid, ones that pass longrope's original length, or decode past it; the
    long ones begin alike.
    """
    rng = random.Random(0)
    long = [1, *(rng.randrange(3, VOCAB) for _ in range(95))]
    return [long[:70], [1], long[:96], [1, *(rng.randrange(3, VOCAB) for _ in range(9))], long[:78], long[:82]]


Row = tuple[str, list[int], list[float]]


def rows(loaded: LoadedModel, max_rows: int, *, forward: Any = None, speculate: int = 0) -> list[Row]:
    """Text, ids and log-probabilities of every prompt, with prefixes reused."""
    engine = make_engine(loaded, forward=forward, max_rows=max_rows, prefixes=PrefixCache())
    config = SamplingConfig(NEW, logprobs=2)
    found: dict[int, tuple[list[str], list[int], list[float]]] = {}
    given = [Request(row, prompt, config, speculate=speculate) for row, prompt in enumerate(prompts())]
    for step in stream(engine, loaded.tokenizer, given):
        texts, ids, logprobs = found.setdefault(step.row, ([], [], []))
        assert step.error is None
        texts.append(step.text)
        if step.scored is not None and step.scored.logprob is not None:
            ids.append(step.scored.token)
            logprobs.append(step.scored.logprob)
            assert all(token < VOCAB for token, _ in step.scored.top)
    return [("".join(texts), ids, logprobs) for _, (texts, ids, logprobs) in sorted(found.items())]


@torch.inference_mode()
def exact(model: Any, prompt: list[int], new: list[int]) -> torch.Tensor:
    """[new, vocab] log-probabilities: a pass over the prompt, and one for each token, with transformers' cache."""
    kept, logits = None, []
    for part in [prompt, *([token] for token in new[:-1])]:
        output = model(torch.tensor([part]), use_cache=True, **({} if kept is None else {"past_key_values": kept}))
        kept = output["past_key_values"] if "past_key_values" in output else output["cache"]
        logits.append(output.logits[0, -1])
    return torch.stack(logits).log_softmax(-1)


def opened(folder: Path, **spec: Any) -> LoadedModel:
    return load(OpenedModel.of(ModelFolder(folder, "model")), ModelSpec(dtype="float32", device="cpu", **spec))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROPES)
def test_every_kind_of_llama_gives_the_texts_of_transformers_at_every_batch_size(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = write(tmp_path / "model", ROPES[name], list(ROPES).index(name))
    loaded = opened(folder)
    forward = choose_forward(loaded)
    alone = rows(loaded, 1, forward=forward)
    assert rows(loaded, 3, forward=forward) == alone
    assert rows(loaded, 8, forward=forward, speculate=3 if "long" in name else 0) == alone

    truth = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    banned = list(range(VOCAB, truth.config.vocab_size)) or None
    for prompt, (text, ids, _) in list(zip(prompts(), alone, strict=True))[-2:-1]:
        made = truth.generate(
            torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False, eos_token_id=2, suppress_tokens=banned, pad_token_id=0
        )
        assert made[0, len(prompt) :].tolist() == ids
        decoded = loaded.tokenizer.decode([*prompt, *ids])
        assert decoded == loaded.tokenizer.decode(prompt) + text
    truth.double()
    for prompt, (_, ids, logprobs) in zip(prompts(), alone, strict=True):
        full = exact(truth, prompt, ids)
        assert logprobs == pytest.approx(full.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist(), abs=1e-4)
        assert ids == full[:, :VOCAB].argmax(-1).tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["longrope", "llama3, original beside"])
def test_transformers_forward_engine_and_check_go_the_same_way(name: str, tmp_path: Path) -> None:
    loaded = opened(write(tmp_path / "model", ROPES[name], 1))
    assert loaded.model is not None
    lean = choose_forward(loaded)
    forward = TransformersForward(loaded.model, CPU)
    alone = rows(loaded, 1, forward=lean)
    for max_rows in (1, 3):
        ours = rows(loaded, max_rows, forward=forward, speculate=max_rows)
        assert [row[:2] for row in ours] == [row[:2] for row in alone]
        assert [pytest.approx(row[2], abs=1e-4) for row in ours] == [row[2] for row in alone]
    config = SamplingConfig(NEW)
    requests = [Request(row, ids, config, eos=frozenset({2})) for row, ids in enumerate(prompts())]
    pieceless = loaded.tokenizer.pieceless
    made = token_rows(generate_rows(loaded.model, CPU, [replace(one, pieceless=pieceless) for one in requests]))
    assert made == [row[1] for row in alone]
    requests = [replace(one, sampling=SamplingConfig(NEW, logprobs=0), pieceless=pieceless) for one in requests]
    for request, scored in zip(requests, scored_rows(decode_rows(lean, requests)).values(), strict=True):
        assert compare(loaded.model, CPU, request, scored).same


@pytest.mark.parametrize(("name", "method"), [("longrope", "int8"), ("yarn, scales", "int8"), ("linear", "int4")])
def test_a_quantized_model_is_the_same_model_at_every_batch_size(
    name: str, method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # 5: an output matrix that is stored though config.json says that it is tied, in float32 and quantized alike.
    folder = write(tmp_path / "model", ROPES[name], 5)
    exact_model, quantized = opened(folder), opened(folder, quantize=method)
    forward = choose_forward(quantized)
    alone = rows(quantized, 1, forward=forward)
    assert rows(quantized, 8, forward=forward) == alone
    whole = choose_forward(exact_model)
    for prompt in prompts():
        logits, theirs = (one.prefill(prompt, one.new_cache(CONTEXT)) for one in (forward, whole))
        assert float((logits - theirs).norm() / theirs.norm()) < (0.1 if method == "int8" else 0.7)


def test_a_draft_is_turned_as_its_tokens_would_be_one_by_one(tmp_path: Path) -> None:
    loaded = opened(write(tmp_path / "model", ROPES["longrope"], 0))
    assert loaded.model is not None
    prompt, drafted = prompts()[4], [5, 6, 7, 8, 9]
    assert len(prompt) < ORIGINAL < len(prompt) + len(drafted)
    for forward in (choose_forward(loaded), TransformersForward(loaded.model, CPU)):
        whole, single = (forward.new_cache(CONTEXT) for _ in range(2))
        forward.prefill(prompt, whole)
        forward.prefill(prompt, single)
        expected = torch.cat([forward.decode([token], [single]) for token in drafted])
        torch.testing.assert_close(forward.prefill(drafted, whole, every=True, drafted=True), expected, atol=1e-4, rtol=1e-4)
