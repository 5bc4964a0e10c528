"""Records as files have them: found in a result, checked, and compared."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from openllama_cli.batch.output.output import OutputFiles
from openllama_cli.errors import ModelError, UsageError
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.fingerprint import opened_fingerprint
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec, scale_text
from openllama_cli.records.record import VERSION

_LARGEST = 256 << 20
_REMEDY = "name a file with the output of olc complete --json, olc generate --json or olc score --json"
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
        told, merged = self.document["model"], self.document["adapters"]
        nameless = [one["name"] for one in merged if not adapters and one["repo_id"] is None]
        options = " ".join(map(_option, merged)) if nameless else ""
        if model is None and told["origin"] == "folder":
            raise UsageError(
                f"the model of {self.name} was a folder, {told['name']}, and records tell no paths",
                f"name it: -m path/to/{told['name']} {options}".rstrip(),
                code="replay_model",
            )
        if nameless:
            raise UsageError(
                f"adapter {nameless[0]} of {self.name} was a folder, and records tell no paths",
                f"name it: {options}",
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
class Scoring:
    """How a text was scored. first: its first token, after a context. stride: see `generation.text.scoring.Prepared`."""

    first: int
    stride: int


@dataclass(frozen=True)
class Record(Made):
    """The record of a result. samples: completions of each prompt, side by side in `completions`.

    seeds: of each prompt, if they have seeds of their own. draws: which random numbers each completion drew. kept: the place
    of each among the answers, None for none; empty where all are in their order. logprobs: of each prompt's tokens, empty
    where it was not scored. choices: from which the answers were chosen, with the `branches` of each prompt, the neutral one
    last; None where nothing was. scoring: how the only prompt was scored; None where it was completed.
    """

    sampling: SamplingConfig
    samples: int
    speculate: int
    prompts: list[list[int]]
    completions: list[Completed]
    seeds: list[int | None] = field(default_factory=list)
    draws: list[int] = field(default_factory=list)
    kept: list[int | None] = field(default_factory=list)
    logprobs: list[list[float | None]] = field(default_factory=list)
    branches: list[list[Completed]] = field(default_factory=list)
    choices: Choices | None = None
    scoring: Scoring | None = None

    def check_ids(self, opened: OpenedModel) -> None:
        """Raise UsageError for ids that the model does not have."""
        branches = [branch.ids for prompt in self.branches for branch in prompt]
        if any(token >= opened.checkpoint.shape.vocab for ids in (*self.prompts, *branches) for token in ids):
            cause = f"the record of {self.name} is damaged: the model does not have all of its token ids"
            raise UsageError(cause, _REMEDY, code="record")


def _option(adapter: Mapping[str, Any]) -> str:
    """What names an adapter of a record, with a path to fill in where it was a folder."""
    where = f"path/to/{adapter['name']}" if adapter["repo_id"] is None else adapter["repo_id"]
    return f"--adapter {where}" + (f":{scale_text(adapter['scale'])}" if adapter["scale"] != 1 else "")


def _label(adapter: Mapping[str, Any]) -> str:
    return f"{adapter['name']}:{adapter['scale']:g}"


def _change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return "is new" if name not in before else "is missing" if name not in now else "differs"


def read_document(path: Path, stdin: BinaryIO | None = None) -> dict[str, Any]:
    """The record in a file, a result's or a batch's, in the form that this olc reads. Raises UsageError where there is none.

    stdin: what to read where the path is -. The file is read once: it may be a pipe.
    """
    try:
        with path.open("rb") if stdin is None or str(path) != "-" else stdin as file:
            data = file.read(_LARGEST + 1)
        found = json.loads(data) if len(data) <= _LARGEST else None
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}", _OR_BATCH, code="record") from problem
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{path} is not one JSON document", _instead_of(path), code="record") from problem
    document = found
    if isinstance(found, dict) and "olc_record" not in found:
        olc = found.get("olc")
        document = olc.get("record") if isinstance(olc, dict) else None
    if not isinstance(document, dict):
        raise UsageError(f"{path} has no record", _instead_of(path), code="record")
    if document.get("olc_record") != VERSION:
        raise UsageError(
            f"{path} has a record of another form ({document.get('olc_record')!r}; this olc reads {VERSION})",
            "update olc, or make the result again",
            code="record",
        )
    return document


def _instead_of(path: Path) -> str:
    """The remedy for a file without a record: an OUTPUT of olc batch has its own beside it."""
    beside = OutputFiles.of(path).record
    return f"its record stands beside it: olc replay {shlex.quote(f'{path}.record.json')}" if beside.is_file() else _OR_BATCH


def read_record(path: Path, document: dict[str, Any] | None = None) -> Record:
    """The record of a JSON result. document: what `read_document` gave, if it was read already. Raises UsageError where there
    is none that can be read.
    """
    document = read_document(path) if document is None else document
    if document.get("command") == "batch":
        raise UsageError(f"{path} is the record of a batch", _REMEDY, code="record")
    try:
        return _record(str(path), document)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as problem:
        if isinstance(problem, UsageError) and problem.code == "constraint_package":
            raise
        raise UsageError(f"the record of {path} is damaged: {problem}", _REMEDY, code="record") from problem


def _record(name: str, document: dict[str, Any]) -> Record:
    record = _RECORDS[document["command"]](name, document)
    if not record.prompts or not all(record.prompts):
        raise ValueError("prompts have no ids")
    if any(values and len(values) != len(ids) for ids, values in zip(record.prompts, record.logprobs, strict=True)):
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


def _answered(name: str, document: dict[str, Any]) -> Record:
    return (_chosen if "choices" in document["options"] else _completed)(name, document)


def _completed(name: str, document: dict[str, Any]) -> Record:
    options = document["options"]
    prompts, completions = document["prompts"], document["completions"]
    known = SamplingConfig.__dataclass_fields__
    given = {key: value for key, value in options.items() if key in known and value is not None}
    record = Record(
        name,
        document,
        SamplingConfig.from_given(given),
        _whole(options["samples"]),
        _whole(options.get("speculate", 0)),
        [_ids(prompt["ids"]) for prompt in prompts],
        [_tokens(one) for one in completions],
        [_whole(prompt["seed"]) for prompt in prompts if "seed" in prompt],
        _ids(one.get("draws_as", place) for place, one in enumerate(completions)),
        [one["choice"] for one in completions if "choice" in one],
        [_logprobs(prompt.get("logprobs", [])) for prompt in prompts],
    )
    if record.samples < 1 or len(prompts) * record.samples != len(completions):
        raise ValueError("prompts and completions do not belong together")
    if len(record.seeds) not in (0, len(prompts)) or len(record.kept) not in (0, len(completions)):
        raise ValueError("seeds or choices do not belong to the completions")
    return record


def _chosen(name: str, document: dict[str, Any]) -> Record:
    options, prompts = document["options"], document["prompts"]
    choices = Choices(
        tuple(options["choices"]), options["choices_prefix"], options["choices_normalize"], options["calibrate_with"]
    )
    branches = [[_tokens(branch) for branch in prompt["branches"]] for prompt in prompts]
    if any(len(one) != len(choices.texts) or not all(branch.ids for branch in one) for one in branches):
        raise ValueError("choices and branches do not belong together")
    if len(prompts) < 1 + (choices.neutral is not None):
        raise ValueError("the neutral prompt is missing")
    ids = [_ids(prompt["ids"]) for prompt in prompts]
    nothing: list[list[float | None]] = [[] for _ in prompts]
    return Record(name, document, _NO_TOKENS, 1, 0, ids, [], logprobs=nothing, branches=branches, choices=choices)


def _score(name: str, document: dict[str, Any]) -> Record:
    options, (prompt,) = document["options"], document["prompts"]
    scoring = Scoring(_whole(options["first"]), _whole(options["stride"]))
    ids, logprobs = _ids(prompt["ids"]), _logprobs(prompt["logprobs"])
    if not 0 <= scoring.first < len(ids) or not logprobs:
        raise ValueError("no token was scored")
    return Record(name, document, _NO_TOKENS, 1, 0, [ids], [], logprobs=[logprobs], scoring=scoring)


# By the commands that made them.
_RECORDS = {"complete": _answered, "generate": _completed, "serve": _answered, "score": _score}
_NO_TOKENS = SamplingConfig(max_tokens=0)


def _tokens(told: Mapping[str, Any]) -> Completed:
    found = Completed(_ids(told["ids"]), _logprobs(told["logprobs"]))
    if len(found.ids) != len(found.logprobs):
        raise ValueError("ids and log-probabilities do not belong together")
    return found


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _ids(values: Any) -> list[int]:
    found = [_whole(value) for value in values]
    if found and min(found) < 0:
        raise ValueError("an id is negative")
    return found


def _logprobs(values: Any) -> list[float | None]:
    if any(value is not None and (type(value) not in (int, float) or not math.isfinite(value)) for value in values):
        raise ValueError("a log-probability is not a number")
    return list(values)


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
