"""Records of single results as files have them: checked, and as what runs again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.opened import OpenedModel
from openllama_cli.records.made import OF_RESULT, Made, check_form, guarded, read_document

# Of `api.Run`, unless it is told another one.
BATCH_SIZE = 16


@dataclass(frozen=True)
class Completed:
    """What came of a prompt: ids with a final EOS, their log-probabilities if they were asked for."""

    ids: list[int]
    logprobs: list[float | None]


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

    @property
    def batch_size(self) -> int:
        """How many rows ran at a time at the most: which kernels they take, and so how they are rounded, depends on it."""
        return 1 if "trace" in self.document["options"] else BATCH_SIZE

    def check_ids(self, opened: OpenedModel) -> None:
        """Raise UsageError for ids that the model does not have."""
        made = [*self.completions, *(branch for prompt in self.branches for branch in prompt)]
        if any(token >= opened.checkpoint.shape.vocab for ids in (*self.prompts, *(one.ids for one in made)) for token in ids):
            cause = f"the record of {self.name} is damaged: the model does not have all of its token ids"
            raise UsageError(cause, OF_RESULT, code="record")


def read_record(path: Path, document: dict[str, Any] | None = None) -> Record:
    """The record of a JSON result. document: what `read_document` gave, if it was read already. Raises UsageError where there
    is none that can be read.
    """
    document = read_document(path) if document is None else document
    if document.get("command") == "batch":
        raise UsageError(f"{path} is the record of a batch", OF_RESULT, code="record")
    check_form(str(path), document, OF_RESULT)
    with guarded(str(path), OF_RESULT, "constraint_package"):
        return _record(str(path), document)


def _record(name: str, document: dict[str, Any]) -> Record:
    record = _RECORDS[document["command"]](name, document)
    if not record.prompts or not all(record.prompts):
        raise ValueError("prompts have no ids")
    if any(values and len(values) != len(ids) for ids, values in zip(record.prompts, record.logprobs, strict=True)):
        raise ValueError("ids and log-probabilities do not belong together")
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
