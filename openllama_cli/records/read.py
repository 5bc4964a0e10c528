"""Records as files have them: found in a result, checked, and compared."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError, UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.fingerprint import opened_fingerprint
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.records.record import VERSION

_LARGEST = 256 << 20
_REMEDY = "name a file with the output of olc complete --json or olc generate --json"
_OR_BATCH = f"{_REMEDY}, or the OUTPUT.record.json of a batch"
# What tells machines and libraries apart, in the order in which it is told.
_SURROUNDINGS = ("quantization", "dtype", "device", "engine", "forward", "versions", "machine")


@dataclass(frozen=True)
class Completed:
    """What came of a prompt: ids with a final EOS, their log-probabilities if they were asked for."""

    ids: list[int]
    logprobs: list[float | None]


@dataclass(frozen=True)
class Made:
    """What is common to all records: something was made with a model. name: of the file. document: all of it."""

    name: str
    document: dict[str, Any]

    def spec(
        self, model: str | None, device: str | None, adapters: tuple[str, ...] = (), *, offline: bool = False
    ) -> ModelSpec:
        """The model that made it, loaded as it was. model, device, adapters: others to use.

        Raises UsageError where model or adapters have to be named.
        """
        told = self.document["model"]
        if model is None and told["origin"] == "folder":
            raise UsageError(
                f"the model of {self.name} was a folder, {told['name']}, and records tell no paths",
                f"name it: -m path/to/{told['name']}",
                code="replay_model",
            )
        merged = self.document["adapters"]
        if nameless := [one["name"] for one in merged if not adapters and one["repo_id"] is None]:
            raise UsageError(
                f"adapter {nameless[0]} of {self.name} was a folder, and records tell no paths",
                "name " + " ".join(f"--adapter path/to/{one['name']}:{one['scale']:g}" for one in merged),
                code="replay_model",
            )
        recorded: str = self.document["device"]
        where = device or (recorded if "," not in recorded else "auto")
        revision = told["revision"] if model is None else None
        quantize = self.document["quantization"]
        adapters = adapters or tuple(f"{one['repo_id']}:{one['scale']!r}" for one in merged)
        return ModelSpec(model or told["name"], revision, where, self.document["dtype"], offline, quantize, adapters)

    def check_weights(self, opened: OpenedModel) -> None:
        """Raise ModelError if a model's files are not those of the record; none is loaded by then."""
        found = opened_fingerprint(opened)
        recorded, here = self.document["model"]["files"], found["files"]
        changed = [name for name in sorted({*recorded, *here}) if recorded.get(name) != here.get(name)]
        if not changed and self.document["tokenizer"]["sha256"] != opened.tokenizer.sha256:
            changed = [self.document["tokenizer"]["name"]]
        adapters = self.document["adapters"], found.get("adapters", [])
        merged = [[(one["scale"], one["files"]) for one in side] for side in adapters]
        if not changed and merged[0] != merged[1]:
            raise ModelError(
                f"the adapters or their scales are not those of {self.name}",
                f"name them with --adapter: {', '.join(_label(one) for one in adapters[0]) or 'none'}",
                code="replay_weights",
            )
        if changed:
            shown = ", ".join(f"{name} {_change(name, recorded, here)}" for name in changed[:3])
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ModelError(
                f"{opened.folder.name} is not the model of {self.name}: {shown}{more}",
                f"name with -m the model that made it, {self.document['model']['name']}",
                code="replay_weights",
            )


@dataclass(frozen=True)
class Record(Made):
    """The record of a result. samples: completions of each prompt, side by side in `completions`."""

    sampling: SamplingConfig
    samples: int
    speculate: int
    prompts: list[list[int]]
    completions: list[Completed]


def _label(adapter: Mapping[str, Any]) -> str:
    return f"{adapter['name']}:{adapter['scale']:g}"


def _change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return "is new" if name not in before else "is missing" if name not in now else "differs"


def read_document(path: Path) -> dict[str, Any]:
    """The record in a file, a result's or a batch's, in the form that this olc reads. Raises UsageError where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        found = json.loads(data) if len(data) <= _LARGEST else None
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}", _OR_BATCH, code="record") from problem
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{path} is not one JSON document", _OR_BATCH, code="record") from problem
    document = found
    if isinstance(found, dict) and "olc_record" not in found:
        olc = found.get("olc")
        document = olc.get("record") if isinstance(olc, dict) else None
    if not isinstance(document, dict):
        raise UsageError(f"{path} has no record", f"{_OR_BATCH} by a model that was loaded for it (--no-server)", code="record")
    if document.get("olc_record") != VERSION:
        raise UsageError(
            f"{path} has a record of another form ({document.get('olc_record')!r}; this olc reads {VERSION})",
            "update olc, or make the result again",
            code="record",
        )
    return document


def read_record(path: Path) -> Record:
    """The record of a JSON result. Raises UsageError where there is none that can be read."""
    document = read_document(path)
    if document.get("command") == "batch":
        raise UsageError(f"{path} is the record of a batch", _REMEDY, code="record")
    try:
        return _record(str(path), document)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as problem:
        if isinstance(problem, UsageError) and problem.code == "constraint_package":
            raise
        raise UsageError(f"the record of {path} is damaged: {problem}", _REMEDY, code="record") from problem


def _record(name: str, document: dict[str, Any]) -> Record:
    options = document["options"]
    known = SamplingConfig.__dataclass_fields__
    given = {key: value for key, value in options.items() if key in known and value is not None}
    record = Record(
        name,
        document,
        SamplingConfig.from_given(given),
        _whole(options["samples"]),
        _whole(options.get("speculate", 0)),
        [_ids(prompt["ids"]) for prompt in document["prompts"]],
        [Completed(_ids(one["ids"]), list(one["logprobs"])) for one in document["completions"]],
    )
    if record.samples < 1 or len(record.prompts) * record.samples != len(record.completions) or not record.prompts:
        raise ValueError("prompts and completions do not belong together")
    if any(len(one.ids) != len(one.logprobs) for one in record.completions) or not all(record.prompts):
        raise ValueError("ids and log-probabilities do not belong together")
    for part in ("model", "tokenizer", "versions", "machine"):
        if not isinstance(document[part], dict):
            raise ValueError(f"{part} is not an object")
    files = document["model"]["files"]
    if not isinstance(files, dict) or not all(isinstance(document[key], str) for key in ("dtype", "device", "engine")):
        raise ValueError("model, dtype, device or engine are not told")
    if document["model"]["origin"] not in ("folder", "hub", "demo") or document["engine"] not in ("loop", "transformers"):
        raise ValueError("the model or the engine is unknown")
    if any(not isinstance(one["files"], dict) or not isinstance(one["scale"], int | float) for one in document["adapters"]):
        raise ValueError("adapters are not told")
    record.spec("any", None, ("any",))
    return record


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _ids(values: Any) -> list[int]:
    return [_whole(value) for value in values]


def changed_surroundings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs from one record to another besides their results, in words: "torch: 2.13.0, then 2.14.0"."""
    found = []
    for name in _SURROUNDINGS:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [(key, old.get(key), new.get(key)) for key in {**old, **new}]
        else:
            found.append((name, old, new))
    return [f"{name}: {_shown(old)}, then {_shown(new)}" for name, old, new in found if old != new]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value in (None, []) else json.dumps(value)
