"""Records held against their schemas, beside the package jsonschema; and what olc says of those that do not fit."""

import contextlib
import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest

from openllama_cli.errors import UsageError
from openllama_cli.records.read import read_record
from openllama_cli.records.schemas import schema
from openllama_cli.records.validate import MisfitError, validate
from openllama_cli.version import __version__
from tests.records.test_batches import batch
from tests.support.schemas import valid

__all__ = ["batch"]

# What `validate` looks at; the others ask nothing of a document.
KEYWORDS = (
    *("$ref", "anyOf", "not", "const", "enum", "type", "minimum", "maximum", "pattern", "items", "prefixItems", "minItems"),
    *("maxItems", "properties", "required", "additionalProperties"),
    *("title", "description", "$schema", "$defs"),
)
HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    10**400,
    3.5,
    float("nan"),
    "",
    "x",
    "int8",
    "loop",
    [],
    [[]],
    [1],
    ["a"],
    {},
    {"a": 1},
]


@pytest.fixture
def records(made: Any, batch: Any) -> list[dict[str, Any]]:
    """A record of each kind."""
    commands = [
        ("complete", "The sky is", "-n", "2", "--logprobs", "1", "--logit-bias", "40=1.5"),
        ("complete", "The sky is", "--choices", "blue,green"),
        ("score", "The sky"),
    ]
    found = [json.loads(made(*arguments).read_text())["olc"]["record"] for arguments in commands]
    return [*found, json.loads(batch("examples").read_text())]


def paths(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in part if isinstance(part, dict) else range(min(len(part), 3)) if isinstance(part, list) else ():
        yield from paths(part[key], (*path, key))


def damaged(record: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A record with something else in one place, without it, or with something more."""
    changed = copy.deepcopy(record)
    *way, last = draw.choice([path for path in paths(changed) if path])
    parent: Any = changed
    for key in way:
        parent = parent[key]
    if (what := draw.random()) < 0.7:
        parent[last] = copy.deepcopy(draw.choice(HOSTILE))
    elif what < 0.85 or isinstance(parent, list):
        del parent[last]
    else:
        parent[f"{last}_more"] = parent[last]
    return changed


def test_it_finds_what_jsonschema_finds(records: list[dict[str, Any]]) -> None:
    draw, refused = random.Random(1), 0
    for number in range(240):
        record = records[number % len(records)]
        name = "batch" if record["command"] == "batch" else "record"
        validate(record, name)
        changed = damaged(record, draw)
        try:
            valid(changed, name)
        except jsonschema.ValidationError:
            refused += 1
            with pytest.raises(MisfitError):
                validate(changed, name)
        else:
            # To jsonschema NaN is within any bounds.
            with contextlib.suppress(*([MisfitError] if "NaN" in json.dumps(changed) else [])):
                validate(changed, name)
    assert refused > 120


def test_it_knows_every_keyword_of_the_schemas() -> None:
    def keywords(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            for name, one in part.items():
                yield name
                inner = one.values() if name in ("properties", "$defs") else [one] if name not in ("const", "enum") else []
                for each in inner:
                    yield from keywords(each)
        elif isinstance(part, list):
            for one in part:
                yield from keywords(one)

    assert {*keywords(json.loads(schema("record"))), *keywords(json.loads(schema("batch")))} <= set(KEYWORDS)


SAID: list[tuple[Callable[[Any], Any], str, str]] = [
    (lambda record: record["options"].pop("ban"), "options.ban is missing", "name a file"),
    (lambda record: record["options"].update(stop="x"), "options.stop is not a list", "name a file"),
    (lambda record: record["options"].update(top_k=1.5), "options.top_k is not a whole number", "name a file"),
    (lambda record: record["options"].update(samples=0), "options.samples is below 1", "name a file"),
    (lambda record: record["tokenizer"].update(sha256="x"), "tokenizer.sha256 is not of its form", "name a file"),
    (lambda record: record.update(engine="steam"), "engine is unknown", "name a file"),
    (lambda record: record["prompts"][0].update(more=1), "prompts.0.more is unknown to this olc", "name a file"),
    (lambda record: record["completions"][0]["ids"].append(None), "completions.0.ids.2 is not a whole number", "name a file"),
]


@pytest.mark.parametrize(("change", "cause", "remedy"), SAID, ids=[cause for _, cause, _ in SAID])
def test_what_does_not_fit_is_named(made: Any, change: Callable[[Any], Any], cause: str, remedy: str) -> None:
    path = made("complete", "x", "-n", "2")
    record = json.loads(path.read_text())["olc"]["record"]
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError) as problem:
        read_record(path)
    assert (problem.value.code, problem.value.cause) == ("record", f"the record of {path} is damaged: {cause}")
    assert problem.value.remedy.startswith(remedy)


def test_records_of_other_versions(made: Any) -> None:
    """An earlier one had fewer options, whose defaults change nothing; a later one may have more, which may change all."""
    path = made("complete", "x", "-n", "2")
    record = json.loads(path.read_text())["olc"]["record"]
    del record["options"]["ban"]
    record["versions"]["olc"] = f"{__version__}.1"
    path.write_text(json.dumps(record))
    assert read_record(path).sampling.ban == ()
    record["options"]["shout"] = True
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError) as problem:
        read_record(path)
    assert problem.value.cause.endswith("options.shout is unknown to this olc")
    assert problem.value.remedy == f"use the olc that made it, {__version__}.1, or a later one"
