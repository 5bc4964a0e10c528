"""What the results of a batch depend on: the header of its journal, and the difference between two of them in words."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.batch.input.choice_settings import ChoiceSettings
from openllama_cli.batch.input.readers import FormatName
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.batch.input.score_settings import ScoreSettings
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig, flag_of
from openllama_cli.models.fingerprint import opened_fingerprint
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec, scale_text
from openllama_cli.prompt_templates import PromptTemplate

if TYPE_CHECKING:
    from openllama_cli.batch.input.precheck import InputSummary

# By which a row of the input becomes a prompt, options and a line of OUTPUT; 1 is olc 0.1.
RULES = 2
_UNSET = SamplingConfig()
# Options that every header has; and logprobs, which no command line has.
_FIRST = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop", "logprobs")
_LONGEST_VALUE = 40
_SHOWN_DIFFERENCES = 3
# In which differences are told: what was given first comes first.
_ORDER = ("rows", "input", "server", "model", "tokenizer", "template", "options")


def batch_header(
    opened: OpenedModel,
    spec: ModelSpec,
    settings: RowSettings,
    fmt: FormatName,
    summary: "InputSummary",
) -> dict[str, Any]:
    """All that the results depend on; a journal is resumed only under the same header."""
    tokenizer = {"name": opened.tokenizer.path.name, "sha256": opened.tokenizer.sha256}
    loading = {"dtype": spec.dtype, "device": spec.device, "quantize": spec.quantize}
    return _header(settings, fmt, summary, {"model": opened_fingerprint(opened), "tokenizer": tokenizer}, loading)


def server_header(
    url: str, model: Mapping[str, Any], settings: RowSettings, fmt: FormatName, summary: "InputSummary"
) -> dict[str, Any]:
    """The same for rows that a server completes. url: the server's. model: its name there, and what else is known of it."""
    return _header(settings, fmt, summary, {"server": url, "model": dict(model)}, {})


def _header(
    settings: RowSettings, fmt: FormatName, summary: "InputSummary", model: dict[str, Any], loading: dict[str, Any]
) -> dict[str, Any]:
    """model: what tells the model. loading: the options that say how it is loaded."""
    sampling, template = settings.sampling, settings.template
    options = loading | {
        "max_tokens": sampling.max_tokens if settings.fixed_length else f"{sampling.max_tokens} or fewer",
        # As given, not as it came out: it decides for rows that have options of their own.
        "temperature": settings.defaults.get("temperature"),
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        **_further(sampling),
        "num_samples": settings.samples if settings.samples > 1 else None,
        # Where it makes no difference it is no option.
        "carry": str(settings.carry) if summary.carries else None,
        **({} if settings.few_shot is None else settings.few_shot.options),
        **_choosing(settings.choosing),
        **_scoring(settings.scoring),
    }
    return {
        "rules": RULES,
        "input": {"sha256": summary.sha256, "format": fmt, "rows_sha256": summary.rows_sha256},
        **model,
        "template": None if template is None else _template(template),
        "options": options,
    }


def _further(sampling: SamplingConfig) -> dict[str, Any]:
    """The options that came later: where they change nothing they are none."""
    values = {field.name: getattr(sampling, field.name) for field in fields(SamplingConfig) if field.name not in _FIRST}
    changed = {name: value for name, value in values.items() if value != getattr(_UNSET, name)}
    again: dict[str, Any] = json.loads(json.dumps(changed))  # As it is read again: lists for tuples.
    return again


def _choosing(choosing: ChoiceSettings) -> dict[str, Any]:
    normalize = choosing.normalize if choosing.normalize != ChoiceSettings.normalize else None
    return {
        "choices": None if choosing.choices is None else list(choosing.choices.texts),
        "choices_prefix": choosing.prefix,
        "choices_normalize": normalize,
        "calibrate_with": choosing.calibrate_with,
    }


def _scoring(scoring: ScoreSettings | None) -> dict[str, Any]:
    if scoring is None:
        return {"score": None, "context_column": None, "stride": None}
    return {"score": True, "context_column": scoring.context_column, "stride": scoring.stride}


def _template(template: PromptTemplate) -> dict[str, Any]:
    texts = [template.template, *filter(None, [template.heading])]
    content = json.dumps([*texts, dict(template.defaults)], sort_keys=True, default=str)
    return {"name": template.name, "sha256": hashlib.sha256(content.encode()).hexdigest()}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two journal headers, in words that name it: "--temperature was 0, now 0.8".

    Empty if nothing did; a setting that is None is one that is not there.
    """
    found = []
    # A run here and one on a server have nothing of a model in common.
    other_place = (before.get("server") is None) != (now.get("server") is None)
    for name in dict.fromkeys((*_ORDER, *before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new or (other_place and name in ("model", "tokenizer", "options")):
            continue
        if name == "rules":
            found.append(f"olc 0.{old or 1} began it, and this olc reads rows by other rules")
        elif name in ("rows", "input"):
            found += _input_differences(before, now)
        elif name == "model" and isinstance(old, dict) and isinstance(new, dict):
            found += _model_differences(old, new)
        elif name == "options" and isinstance(old, dict) and isinstance(new, dict):
            found += [_was(flag_of(key), old.get(key), new.get(key)) for key in _changed(old, new)]
        elif name == "server":
            found.append(_was("--server", old, new))
        elif name in ("template", "tokenizer"):
            found.append(_named_difference(name, old, new))
        else:
            found.append(_was(name, old, new))
    return list(dict.fromkeys(found))


def mismatch(path: Path, changed: list[str]) -> UsageError:
    """The error for a journal of another run. changed: the differences."""
    shown = "; ".join(changed[:_SHOWN_DIFFERENCES])
    if len(changed) > _SHOWN_DIFFERENCES:
        shown += f"; and {len(changed) - _SHOWN_DIFFERENCES} more"
    return UsageError(
        f"the rows in {path} belong to a different run: {shown}",
        "use the earlier settings to resume, start over with --restart, or choose another -o",
        code="journal_mismatch",
    )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, in the order of the newer mapping."""
    return [key for key in {**new, **old} if old.get(key) != new.get(key)]


def _input_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if before.get("rows") != now.get("rows"):
        return [f"the input had {before.get('rows')} rows, now {now.get('rows')}"]
    old, new = before.get("input"), now.get("input")
    if isinstance(old, dict) and isinstance(new, dict) and old.get("sha256") == new.get("sha256"):
        changed = [key for key in _changed(old, new) if key != "rows_sha256"]
        if not changed and old.get("rows_sha256") != new.get("rows_sha256"):
            # Another template or other examples make other prompts of the same rows; they are named themselves.
            same = _prompts_made_by(before) == _prompts_made_by(now)
            return ["what is taken from the rows changed (--carry, options)"] if same else []
        return [_was(f"the input's {key}", old.get(key), new.get(key)) for key in changed]
    return ["the input's rows changed"]


def _prompts_made_by(header: Mapping[str, Any]) -> list[Any]:
    options = header.get("options")
    options = options if isinstance(options, dict) else {}
    return [header.get("template"), *(options.get(name) for name in ("examples", "shots", "examples_seed", "balance"))]


def _model_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The files that changed, then a changed revision or another key, unless the files already explain it."""
    old_files, new_files = old.get("files"), new.get("files")
    found = []
    if old.get("adapters") != new.get("adapters"):
        labels = [[f"{one['name']}:{scale_text(one['scale'])}" for one in part.get("adapters") or ()] for part in (old, new)]
        same = labels[0] == labels[1]
        found.append("an adapter's files changed" if same else _was("--adapter", *(" ".join(one) or None for one in labels)))
    if isinstance(old_files, dict) and isinstance(new_files, dict):
        for name in _changed(old_files, new_files):
            what = "was added" if name not in old_files else "was removed" if name not in new_files else "changed"
            found.append(f"the model's file {name} {what}")
    return found or [_was(f"the model's {key}", old.get(key), new.get(key)) for key in _changed(old, new)]


def _named_difference(what: str, old: Any, new: Any) -> str:
    """A template or tokenizer: another name, or another content under the same name."""
    if old is None or new is None:
        return f"{'no' if old is None else 'a'} {what} was used, now {'one' if old is None else 'none'} is"
    names = [value.get("name") if isinstance(value, dict) else None for value in (old, new)]
    if names[0] == names[1]:
        return f"the {what} changed"
    return _was(f"the {what}", *names)


def _was(name: str, old: Any, new: Any) -> str:
    return f"{name} was {_value(old)}, now {_value(new)}"


def _value(value: Any) -> str:
    """A value as one would type it, short."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (str, list, dict)) else str(value)
    if isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value and value:
        text = value
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
