"""config.json's rotary embedding: the types that olc computes, and what each of them has to say.

transformers warns of most mistakes in it and goes on, with other angles than the model was trained with, or fails later in a
product of matrices. Here each is an error with its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import short


@dataclass(frozen=True)
class _Type:
    """Keys of a type: numbers that it needs or may have, and lists of half a head's size."""

    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()


_YARN = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
# As `transformers.modeling_rope_utils` reads them; all have rope_theta, and it ignores what else there is.
TYPES: dict[str, _Type] = {
    "default": _Type(),
    "linear": _Type(("factor",)),
    "dynamic": _Type(("factor",)),
    "yarn": _Type(("factor",), (*_YARN, "original_max_position_embeddings")),
    "longrope": _Type(
        (), ("factor", "attention_factor", "original_max_position_embeddings"), lists=("short_factor", "long_factor")
    ),
    "llama3": _Type(("factor", "low_freq_factor", "high_freq_factor"), ("original_max_position_embeddings",)),
    "proportional": _Type((), ("factor",)),
}
# What else transformers' utilities read, and where a number may be 0.
_MAY_BE_ZERO = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
_OLD_NAMES = {"su": "longrope"}


def read_rope(file: Path, raw: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """The keys of config.json (`raw`) that make the rotary embedding, checked, as transformers' LlamaConfig takes them.

    Raises ModelError for a type that olc does not compute, and for a key that is missing or no number.
    """
    found = {key: raw[key] for key in ("rope_theta", "partial_rotary_factor") if raw.get(key) is not None}
    for key, value in found.items():
        _number(file, key, value)
    outside = raw.get("original_max_position_embeddings")
    if outside is not None:
        _number(file, "original_max_position_embeddings", outside)
        found["original_max_position_embeddings"] = outside
    for key in ("rope_scaling", "rope_parameters"):
        if raw.get(key) is None:
            continue
        found[key] = _checked(file, key, raw[key], head_dim)
    partial = standard_rope(found).get("partial_rotary_factor", 1)
    if partial != 1 and rope_type(found) != "proportional":
        raise ModelError(
            f"{file} has partial_rotary_factor {partial!r}, but Transformers' Llama rotates heads as a whole",
            "use a model whose heads are rotated as a whole; see `olc models list`",
        )
    if not 0 <= partial <= 1:
        raise ModelError(f"{file} has partial_rotary_factor {partial!r}, not a number from 0 to 1", _advice(file))
    return found


def standard_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The one set of rope parameters that config.json's old and new keys amount to, in transformers' order of precedence.

    config: keyword arguments for LlamaConfig. rope_scaling is the old name of rope_parameters, and wins where both are there;
    rope_theta and partial_rotary_factor beside it hold where it has none; original_max_position_embeddings beside it, as Phi-3
    writes it, holds always.
    """
    rope: dict[str, Any] = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    rope.setdefault("rope_type", rope.get("type", "default"))
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in config:
            rope.setdefault(key, config[key])
    if "original_max_position_embeddings" in TYPES[rope["rope_type"]].optional:
        if "original_max_position_embeddings" in config:
            rope["original_max_position_embeddings"] = config["original_max_position_embeddings"]
        else:
            rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    return rope


def rope_type(config: Mapping[str, Any]) -> str:
    """The type, one of `TYPES`. config: keyword arguments for LlamaConfig."""
    kind: str = standard_rope(config)["rope_type"]
    return kind


def longrope_limit(config: Mapping[str, Any]) -> int | None:
    """Beyond how many tokens longrope's long factors hold; None for other types, whose angles are the same in every text.

    config: keyword arguments for LlamaConfig, or its `to_dict()`. The frequencies of "dynamic" begin to change at
    `max_position_embeddings`, where olc's texts end.
    """
    rope = standard_rope(config)
    return int(rope["original_max_position_embeddings"]) if rope["rope_type"] == "longrope" else None


def _checked(file: Path, where: str, value: Any, head_dim: int) -> dict[str, Any]:
    """rope_scaling or rope_parameters, without keys that are null."""
    if not isinstance(value, dict):
        raise ModelError(f"{file} has the {where} {short(value)}, not an object", _advice(file))
    if not value:
        return value
    kind = value.get("rope_type", value.get("type", "default"))
    if not isinstance(kind, str) or kind not in TYPES:
        raise ModelError(f"{file} has the {where} {short(kind)}; olc computes {', '.join(TYPES)}", _other_type(file, kind))
    nested = next((key for key, inner in value.items() if isinstance(inner, dict)), None)
    if nested is not None:
        raise ModelError(
            f"{file} has {where} for each type of layer ({short(nested)}), which a Llama does not have",
            "use a Llama; see `olc models list`",
        )
    known = TYPES[kind]
    # yarn computes its factor where it is null, as transformers does.
    kept = {key: inner for key, inner in value.items() if inner is not None or (kind, key) == ("yarn", "factor")}
    for key in (*known.needed, *known.lists):
        if key not in kept:
            raise ModelError(f"{file}: {where} of type {kind} lacks {key}", _advice(file))
    for key in ("rope_theta", "partial_rotary_factor", *known.needed, *known.optional):
        if kept.get(key) is not None:
            _number(file, f"{where}: {key}", kept[key], zero=key in (*_MAY_BE_ZERO, "partial_rotary_factor"))
    for key in known.lists:
        numbers, wanted = kept[key], head_dim // 2
        if not isinstance(numbers, list) or len(numbers) != wanted:
            what = f"{len(numbers)} numbers" if isinstance(numbers, list) else short(numbers)
            raise ModelError(
                f"{file}: {where}: {key} is {what}; half of the head size, {wanted} numbers, is needed", _advice(file)
            )
        for number in numbers:
            _number(file, f"{where}: {key}", number)
    return kept


def _number(file: Path, name: str, value: Any, *, zero: bool = False) -> None:
    if type(value) not in (int, float) or not abs(value) < 1e300 or value < 0 or (value == 0 and not zero):
        raise ModelError(
            f"{file} has {name} {short(value)}, not a number {'of at least' if zero else 'above'} 0", _advice(file)
        )


def _other_type(file: Path, kind: Any) -> str:
    if isinstance(kind, str) and kind in _OLD_NAMES:
        return f'{kind} is the old name of {_OLD_NAMES[kind]}: write "{_OLD_NAMES[kind]}" in {file.name}'
    return "use a model with one of these; Transformers' Llama has no others"


def _advice(file: Path) -> str:
    return f"correct {file.name} as the model's authors publish it, or use another model"
