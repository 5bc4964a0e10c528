"""adapter_config.json: is it a LoRA that olc merges, and with which numbers?

The keys and their meaning are those of peft's LoraConfig. A key that would change the merged weights in a way that olc does not
compute is refused by name; all others (dropout, target_modules, how training began) change nothing that is saved.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import brief, damaged, read_object, short

CONFIG = "adapter_config.json"
# Computed in another way, or of weights that are not a Llama's.
_REFUSED = (
    *("layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "use_qalora"),
    *("use_bdlora", "arrow_config", "velora_config", "monteclora_config", "kasa_config"),
)
# With these a training begins by changing the model's own weights, which the adapter alone does not tell.
_CHANGES_BASE = re.compile(r"pissa.*|olora|corda|loftq|lora_ga|mica")
# These put vectors of their own in front of a text or into attention.
_NEVER_MERGED = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT")
# Matching a group that is repeated, or many repetitions behind one another, may take longer than anybody waits.
_REPEATED_GROUP, _REPETITION = re.compile(r"\)[+*{]"), re.compile(r"[+*{]")
_MOST_REPETITIONS, _LONGEST_PATTERN, _MOST_PATTERNS = 4, 300, 5_000
# What a pattern of names stands for, in the order in which they are tried.
_Patterns = Sequence[tuple[re.Pattern[str], Any]]


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter says of itself. base, revision: its model's path or Hub id, and of that a revision; None if it does not
    say. dora: whether it is a DoRA.
    """

    file: Path
    base: str | None
    revision: str | None
    dora: bool
    rank: int
    _alpha: float
    _root: bool
    _ranks: _Patterns
    _alphas: _Patterns

    def rank_of(self, module: str) -> int:
        """The rank in a module such as "model.layers.0.self_attn.q_proj"."""
        return _integer(self.file, "rank_pattern", _of(self._ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """What the product of a module's two matrices is multiplied with: alpha / rank, with rsLoRA alpha / √rank."""
        alpha = _number(self.file, "alpha_pattern", _of(self._alphas, module, self._alpha))
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self._root else alpha / rank


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check an adapter's configuration. Raises ModelError for another method than LoRA, and for a damaged file."""
    file = folder / CONFIG
    raw = read_object(file)
    kind = raw.get("peft_type")
    if kind != "LORA":
        what = f"is of the kind {brief(kind)}" if isinstance(kind, str) else "names no peft_type"
        remedy = "merge it with peft (merge_and_unload), and use the merged folder"
        if isinstance(kind, str) and kind in _NEVER_MERGED:
            remedy = "use it with peft itself: it changes no weights, and nothing can be merged"
        raise ModelError(f"{file} {what}; olc merges LoRA adapters", remedy, code="adapter")
    for key in _REFUSED:
        if raw.get(key):
            raise ModelError(
                f"{file} has {key} {short(raw[key])}, which olc does not merge",
                "merge it with peft (merge_and_unload), and use the merged folder",
                code="adapter",
            )
    start = raw.get("init_lora_weights")
    if isinstance(start, str) and _CHANGES_BASE.fullmatch(start):
        raise ModelError(
            f"{file} has init_lora_weights {short(start)}: training changed the model's own weights, which it does not hold",
            "save it with path_initial_model_for_weight_conversion, or merge it with peft and use the merged folder",
            code="adapter",
        )
    base, revision = (
        value if isinstance(value, str) and value else None
        for value in (raw.get("base_model_name_or_path"), raw.get("revision"))
    )
    return AdapterConfig(
        file=file,
        base=base,
        revision=revision,
        dora=raw.get("use_dora") is True,
        rank=_integer(file, "r", raw.get("r", 8)),
        _alpha=_number(file, "lora_alpha", raw.get("lora_alpha", 8)),
        _root=raw.get("use_rslora") is True,
        _ranks=_patterns(file, raw, "rank_pattern"),
        _alphas=_patterns(file, raw, "alpha_pattern"),
    )


def _patterns(file: Path, raw: Mapping[str, Any], key: str) -> _Patterns:
    patterns = raw.get(key) or {}
    if not isinstance(patterns, dict) or len(patterns) > _MOST_PATTERNS:
        raise damaged(file, f"has a {key} that is not a short list of names and numbers")
    compiled = []
    for pattern, value in patterns.items():
        try:
            slow = _REPEATED_GROUP.search(pattern) or len(_REPETITION.findall(pattern)) > _MOST_REPETITIONS
            if slow or len(pattern) > _LONGEST_PATTERN:
                raise ValueError("it would take too long to match")
            # A module's whole name or its end, as in peft's `get_pattern_key`.
            compiled.append((re.compile(rf"(.*\.)?({pattern})$"), value))
        except (re.error, ValueError, OverflowError, RecursionError) as error:
            raise damaged(file, f"has a {key} with {brief(pattern)}, which is no pattern of names ({error})") from error
    return compiled


def _of(patterns: _Patterns, module: str, default: Any) -> Any:
    """What the first pattern that fits a module says."""
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _integer(file: Path, key: str, value: Any) -> int:
    if type(value) is not int or not 0 < value <= 1 << 20:
        raise damaged(file, f"has {key} {short(value)}, not a rank")
    return value


def _number(file: Path, key: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e9:
        raise damaged(file, f"has {key} {short(value)}, not a number")
    return float(value)
