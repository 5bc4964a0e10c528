"""config.json against transformers: every key of its LlamaConfig with values of every kind, and every rotary type."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.config import check_config
from openllama_cli.models.checkpoint.config_keys import HONORED, REFUSED, WITHOUT_EFFECT
from openllama_cli.models.checkpoint.rope import TYPES, longrope_limit, rope_type
from tests.support.models.tiny_models import LLAMA3_ROPE, tiny_config, write_tiny_llama

FILE = Path("config.json")
VALUES: list[Any] = [None, True, False, 0, -1, 1, 2, 4, 1.5, 1e-5, "silu", "x", [], [2, 3], {}, {"a": 1}]
# What a pass of transformers depends on.
RESULTS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *(
        "vocab_size",
        "max_position_embeddings",
        "hidden_act",
        "rms_norm_eps",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
    ),
)

ROTARY = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "head_dim",
)


def config(**changes: Any) -> dict[str, Any]:
    return {**tiny_config(), **copy.deepcopy(changes)}


def angles(given: dict[str, Any]) -> tuple[Any, ...]:
    """What transformers turns positions by."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    made = LlamaConfig(**copy.deepcopy(given))
    module: Any = LlamaRotaryEmbedding(made)
    rope = made.rope_parameters
    limit = rope["original_max_position_embeddings"] if rope["rope_type"] == "longrope" else None
    return rope["rope_type"], module.inv_freq.tolist(), module.attention_scaling, limit, rope.get("long_factor")


@pytest.mark.filterwarnings("ignore")
def test_every_key_of_llama_config_is_handed_on_as_transformers_reads_it_or_refused() -> None:
    from transformers import LlamaConfig

    accepted = 0
    for key in sorted({field.name for field in dataclasses.fields(LlamaConfig)} | HONORED | REFUSED | WITHOUT_EFFECT):
        for value in VALUES if key in HONORED else VALUES[:2] + VALUES[-4:]:
            raw = config(**{key: value})
            try:
                ours, _ = check_config(FILE, copy.deepcopy(raw))
            except ModelError:
                continue
            try:
                theirs = LlamaConfig(**copy.deepcopy(raw))
                turned = angles(raw) if key in ROTARY else None
            except Exception:  # What transformers refuses and olc takes is null, for the default, or of no use to either.
                assert value is None or key not in HONORED - {"bos_token_id", "eos_token_id", "rms_norm_eps"}, (key, value)
                continue
            mine = LlamaConfig(**copy.deepcopy(ours))
            assert [getattr(mine, name) for name in RESULTS] == [getattr(theirs, name) for name in RESULTS], (key, value)
            assert turned is None or angles(ours) == turned, (key, value)
            accepted += 1
    assert accepted > 200


FACTORS: dict[str, Any] = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2, 3, 4, 5]}
COMPLETE: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2},
    "dynamic": {"factor": 3.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "longrope": {"factor": 2.0, "original_max_position_embeddings": 64, **FACTORS},
    "llama3": LLAMA3_ROPE,
    "proportional": {"partial_rotary_factor": 0.5},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TYPES)
def test_every_rope_type_is_read_as_transformers_reads_it(kind: str) -> None:
    from transformers import LlamaConfig

    rope = {"rope_type": kind, **COMPLETE[kind]}
    old = {("type" if key == "rope_type" else key): value for key, value in rope.items()}
    inside = {"rope_theta": 300.0, **rope}
    for raw in (
        config(rope_scaling=old),
        config(rope_scaling=rope, rope_theta=500),
        config(rope_parameters=inside, rope_theta=500.0),
        config(rope_parameters=inside, rope_scaling=None),
        config(rope_parameters=inside, rope_scaling=rope, rope_theta=7.0),
        config(rope_scaling={}, rope_parameters=inside),
        config(rope_parameters=rope, original_max_position_embeddings=48),
        config(rope_scaling={key: value for key, value in rope.items() if key != "original_max_position_embeddings"}),
        config(rope_scaling=rope, partial_rotary_factor=1.0),
    ):
        ours, _ = check_config(FILE, copy.deepcopy(raw))
        expected = angles(raw)
        assert angles(ours) == expected
        assert (rope_type(ours), longrope_limit(ours)) == (expected[0], expected[3])
        assert longrope_limit(LlamaConfig(**copy.deepcopy(ours)).to_dict()) == expected[3]


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "default"])
def test_what_a_rope_type_lacks_or_has_wrong_is_named(kind: str) -> None:
    rope = {"rope_type": kind, **COMPLETE[kind]}
    for key in (*TYPES[kind].needed, *TYPES[kind].lists):
        without = {name: value for name, value in rope.items() if name != key}
        with pytest.raises(ModelError, match=f"rope_scaling of type {kind} lacks {key}\n"):
            check_config(FILE, config(rope_scaling=without))
    for key in (*TYPES[kind].needed, *TYPES[kind].optional, *TYPES[kind].lists, "rope_theta"):
        for wrong in ("2", True, -1, math.inf, math.nan, 10**400, [1.0], [1.0, "2", 1, 1], {}):
            with pytest.raises(ModelError, match=key) as caught:
                check_config(FILE, config(rope_scaling={**rope, key: wrong}))
            assert len(caught.value.cause) < 200


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"type": "su", **FACTORS}}, "'su'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, "'mrope'"),
        ({"rope_scaling": {"rope_type": None}}, "None"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "'full_attention'"),
        ({"rope_scaling": {"type": "longrope", **FACTORS, "long_factor": [1.0] * 5}}, "long_factor is 5 numbers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.25}},
            "partial_rotary_factor 0.25",
        ),
        ({"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 2}}, "partial_rotary_factor 2"),
        ({"original_max_position_embeddings": "x"}, "original_max_position_embeddings 'x'"),
        ({"sliding_window": 64}, "sliding_window 64"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"per_layer_config": {"0": {"intermediate_size": 8}}}, "per_layer_config"),
        ({"transformers_weights": "../other.safetensors"}, "transformers_weights"),
        ({"is_causal": False}, "is_causal False"),
    ],
)
def test_what_would_change_results_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_config(FILE, config(**changes))
    assert said in caught.value.cause
    assert "again" not in caught.value.remedy
    assert ("longrope" in caught.value.remedy) == (said == "'su'")


def test_what_changes_nothing_passes() -> None:
    same = {
        "sliding_window": 128,
        "layer_types": ["full_attention"] * 2,
        "is_causal": True,
        "transformers_weights": "model.safetensors",
        "partial_rotary_factor": 1,
        "original_max_position_embeddings": 16,
        "pretraining_tp": 8,
        "attention_dropout": 0.5,
        "mscale_of_nobody": 3,
    }
    assert angles(check_config(FILE, config(**same))[0]) == angles(config())


@pytest.mark.filterwarnings("ignore")
def test_the_table_has_every_key_that_transformers_reads_of_a_llama(tmp_path: Path) -> None:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

    read: set[str] = set()

    class Remembering(LlamaConfig):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    folder = write_tiny_llama(tmp_path, layers=1)
    model: Any = LlamaForCausalLM.from_pretrained(folder, config=Remembering(**tiny_config(layers=1)), dtype=torch.float32)
    own = GenerationConfig(eos_token_id=2, pad_token_id=0)
    model.generate(torch.tensor([[1, 5, 6]]), generation_config=own, max_new_tokens=2)
    assert "sliding_window" in read
    fields = {field.name for field in dataclasses.fields(LlamaConfig)}
    # Methods and what is no key; a config's sampling defaults reach generation_config alone, and that is olc's own.
    machinery = set(dir(PreTrainedConfig)) - fields
    keys = {name for name in read if not name.startswith("_")} - machinery - vars(GenerationConfig()).keys()
    assert keys - HONORED - WITHOUT_EFFECT - REFUSED == set()


def test_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(ModelError, match="rms_norm_eps a number of many digits"):
        check_config(FILE, config(rms_norm_eps=10**400))
