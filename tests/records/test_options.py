"""Every option of a command that makes results is in the record, or has no part in the result: each one, also a future one."""

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.spec import ModelSpec
from openllama_cli.records.schemas import schema
from tests.conftest import Olc

SENTIMENT = Path(__file__).parents[2] / "prompts" / "examples" / "sentiment.csv"
COMMANDS = ("complete", "generate", "score", "batch")

SAMPLING = {field.name: f"options.{field.name}" for field in fields(SamplingConfig) if field.name != "logprobs"}
MODEL = {
    "model": "model.name",
    "revision": "model.revision",
    "adapters": "adapters",
    "device": "device",
    "dtype": "dtype",
    "quantize": "quantization",
}
EXAMPLES = {"shots": "options.shots", "examples_seed": "options.examples_seed", "balance": "options.balance"}
PROMPT = dict.fromkeys(("file", "escape", "values"), "prompts.text")
CHOICES = {
    **dict.fromkeys(("choices", "choices_file", "no_choices"), "options.choices"),
    "choices_prefix": "options.choices_prefix",
    "choices_normalize": "options.choices_normalize",
    **dict.fromkeys(("calibrate", "calibrate_with"), "options.calibrate_with"),
}
WRITTEN = {"template": "options.template", "examples_file": "options.examples", **EXAMPLES, **PROMPT}

# Where a record has what an option said, by the option's parameter.
TOLD: dict[str, dict[str, str]] = {
    "complete": {
        **{"prompt": "prompts.text", **WRITTEN, **CHOICES, **SAMPLING, **MODEL},
        **{"echo": "options.echo", "logprobs": "options.logprobs", "num_samples": "options.samples"},
        **{"engine": "engine", "speculate": "options.speculate"},
    },
    "generate": {
        **{"prompts": "prompts.text", **WRITTEN, **SAMPLING, **MODEL},
        **{"echo": "options.echo", "logprobs": "options.logprobs", "checking": "options.check", "trace": "options.trace"},
    },
    "score": {
        **{"text": "prompts.text", "file": "prompts.text", "escape": "prompts.text", **MODEL},
        **{"context": "options.context", "unit": "options.by", "stride": "options.stride", "top": "options.top"},
    },
    "batch": {
        **{name: f"settings.defaults.{name}" for name in SAMPLING},
        **{name: f"settings.{path.removeprefix('options.')}" for name, path in CHOICES.items()},
        **{name: f"settings.examples.{name.removeprefix('examples_')}" for name in EXAMPLES},
        **{**MODEL, "examples_file": "settings.examples.sha256", "template": "settings.template.template"},
        **{"source": "input.name", "format_name": "input.format", "output": "output.name", "carry": "settings.carry"},
        **{"score": "settings.scoring", "context_column": "settings.scoring.context_column"},
        **{"stride": "settings.scoring.stride", "num_samples": "settings.samples", "escape": "settings.defaults"},
        **{"engine_name": "runs.by", "server": "server", "batch_size_text": "runs.batch_size"},
        **dict.fromkeys(("annotated", "pipeline", "lang"), "options"),
    },
}

ELSEWHERE = {
    "offline": "the files are the same, by their hashes",
    "server": "the record is that of the server's model, and olc.server has its name",
    "no_server": "the same",
}
SHOWN = {
    "as_json": "without it there is no record",
    "show_prompt": "nothing is run",
    "stats": "on stderr, beside the result",
    "svg": "a picture of the result, which is not combined with --json",
}
# Options that no result depends on, and why.
NO_PART: dict[str, dict[str, str]] = {
    "complete": {
        **ELSEWHERE,
        **{name: SHOWN[name] for name in ("as_json", "show_prompt", "stats")},
        "no_stream": "the same text, later",
        **dict.fromkeys(
            ("annotate", "pipeline", "lang"), "the completions are annotated once they are made: olc.annotated_with"
        ),
    },
    "generate": {**ELSEWHERE, **{name: SHOWN[name] for name in ("as_json", "show_prompt", "svg")}},
    "score": {**ELSEWHERE, **{name: SHOWN[name] for name in ("as_json", "stats", "svg")}},
    "batch": {
        "offline": ELSEWHERE["offline"],
        **dict.fromkeys(("show_prompt", "dry_run", "peek", "report"), "no batch is run"),
        **dict.fromkeys(("svg", "as_json"), "of --report and --dry-run"),
        "json_progress": "on stdout, beside OUTPUT",
        **dict.fromkeys(("retry_errors", "restart"), "which rows are made again, which OUTPUT does not show"),
        **dict.fromkeys(("ray_address", "workers"), "which processes make the rows; `runs` has the surroundings of each"),
    },
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_told_or_has_no_part(command: str) -> None:
    parameters = {one.name for one in importlib.import_module(f"openllama_cli.commands.{command}").command.params}
    parameters -= {"debug"}  # Of all commands, once olc has run one: what it prints of a bug.
    told, without = TOLD[command].keys(), NO_PART[command].keys()
    assert (parameters - told - without, told & without, (told | without) - parameters) == (set(), set(), set())
    root = json.loads(schema("batch" if command == "batch" else "record"))
    for name, path in TOLD[command].items():
        assert _described(root, root, path.split(".")), f"{name}: the schema has no {path}"


def _described(part: Mapping[str, Any], root: Mapping[str, Any], path: list[str]) -> bool:
    """Whether a schema has a field, or an object of any fields, at a path."""
    if "$ref" in part:
        file, _, pointer = part["$ref"].partition("#")
        root = json.loads(schema(Path(file).stem)) if file else root
        part = root
        for name in filter(None, pointer.split("/")):
            part = part[name]
    if "anyOf" in part:
        return any(_described(one, root, path) for one in part["anyOf"])
    if not path or (part.get("type") in ("object", ["object", "null"]) and "properties" not in part):
        return True
    if "items" in part:
        return _described(part["items"], root, path)
    return path[0] in part.get("properties", {}) and _described(part["properties"][path[0]], root, path[1:])


# Each with a value that it does not have by default, as it is typed and as the record has it.
GIVEN: dict[str, tuple[tuple[str, ...], Any]] = {
    "max_tokens": (("-n", "3"), 3),
    "temperature": (("--temperature", "0.7"), 0.7),
    "top_p": (("--top-p", "0.8"), 0.8),
    "top_k": (("--top-k", "7"), 7),
    "min_p": (("--min-p", "0.01"), 0.01),
    "seed": (("--seed", "5"), 5),
    "heal": (("--heal",), True),
    "stop": (("--stop", "z\\tz"), ["z\tz"]),
    "stop_at": (("--stop-at", "paragraph"), "paragraph"),
    "stop_token_ids": (("--stop-token", "9"), [9]),
    "min_tokens": (("--min-tokens", "2"), 2),
    "ignore_eos": (("--ignore-eos",), True),
    "loop_guard": (("--loop-guard",), True),
    "repetition_penalty": (("--repetition-penalty", "1.2"), 1.2),
    "frequency_penalty": (("--frequency-penalty", "0.1"), 0.1),
    "presence_penalty": (("--presence-penalty", "0.2"), 0.2),
    "dry_multiplier": (("--dry-multiplier", "0.5"), 0.5),
    "dry_base": (("--dry-base", "1.5"), 1.5),
    "dry_allowed_length": (("--dry-allowed-length", "3"), 3),
    "dry_sequence_breakers": (("--dry-sequence-breaker", "!"), ["!"]),
    "logit_bias": (("--logit-bias", "40=1.5"), [[40, 1.5]]),
    "ban": (("--ban", "e"), ["e"]),
}
CONSTRAINTS: dict[str, tuple[tuple[str, ...], Any]] = {
    "regex": (("--regex", "[0-9]+"), "[0-9]+"),
    "json_schema": (("--json-schema", '{"type": "integer"}'), '{"type": "integer"}'),
    "grammar": (("--grammar", "{}/yes.lark"), 'start: "yes"\n'),
}
ALL = tuple(word for words, _ in GIVEN.values() for word in words)
QA = ("-t", "qa", "-p", "question", "Who?")
FEW_SHOT = ("-t", "sentiment", "--examples", str(SENTIMENT), "--shots", "2", "--examples-seed", "3", "--balance")
CHOSEN = ("--choices-prefix", "-", "--choices-normalize", "token", "--calibrate-with", "N/A")
# Commands with some options, and what these have to say.
RUNS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("complete", "a\\tb", "-e", *ALL, "--num-samples", "2"), {"prompt": "a\tb", "num_samples": 2}),
    (("complete", *QA, "--echo", "--logprobs", "2", "-n", "1"), {"template": "qa", "echo": True, "logprobs": 2}),
    (("complete", "x", "--speculate", "2", "-n", "1"), {"speculate": 2}),
    (("complete", "x", "--engine", "transformers", "-n", "1"), {"engine": "transformers"}),
    (
        ("complete", "x", "--choices", "a,b", *CHOSEN),
        {"choices": ["a", "b"], "choices_prefix": "-", "choices_normalize": "token", "calibrate_with": "N/A"},
    ),
    (
        ("complete", "x", *FEW_SHOT, "--calibrate"),
        {"choices": ["positive", "negative"], "shots": 2, "examples_seed": 3, "balance": True},
    ),
    (("generate", "a\\tb", "x", "-e", *ALL, "--echo", "--logprobs"), {"prompts": "a\tb", "echo": True, "logprobs": 0}),
    (("generate", "x", *FEW_SHOT, "-n", "1"), {"template": "sentiment", "shots": 2, "examples_seed": 3, "balance": True}),
    (("generate", "x", "--trace", "-n", "1"), {"trace": 5}),
    (("generate", "x", "--check", "-n", "1"), {"checking": True}),
    (("score", "a\\tb", "-e", "--context", "x", "--top", "3"), {"text": "xa\tb", "context": "x", "top": 3}),
    (("score", "a b", "--by", "word", "--stride", "77"), {"unit": "word", "stride": 77}),
]


@pytest.mark.parametrize(("arguments", "said"), RUNS, ids=lambda one: " ".join(one)[:40])
def test_the_record_has_what_was_said(made: Any, arguments: tuple[str, ...], said: dict[str, Any]) -> None:
    record = json.loads(made(*arguments).read_text())["olc"]["record"]
    said = said | ({name: value for name, (_, value) in GIVEN.items()} if "--seed" in arguments else {})
    paths = TOLD[arguments[0]]
    assert {
        name: list(_values(record, paths[name].split("."))) for name in said if name not in ("prompt", "prompts", "text")
    } == {name: [value] for name, value in said.items() if name not in ("prompt", "prompts", "text")}
    for name in {"prompt", "prompts", "text"} & said.keys():
        assert said[name] in _values(record, paths[name].split("."))


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("command", ["complete", "generate", "batch"])
def test_the_record_has_the_constraint(olc: Olc, made: Any, model: str, tmp_path: Path, command: str, name: str) -> None:
    (tmp_path / "yes.lark").write_text('start: "yes"\n')
    words, value = CONSTRAINTS[name]
    given = [word.format(tmp_path) if word.startswith("{}") else word for word in words]
    if command == "batch":
        record = batch_record(olc, model, tmp_path, *given, "-n", "2")
    else:
        record = json.loads(made(command, "x", *given, "-n", "2").read_text())["olc"]["record"]
    assert list(_values(record, TOLD[command][name].split("."))) == [value]


def batch_record(olc: Olc, model: str, tmp_path: Path, *arguments: str, name: str = "out.jsonl") -> Any:
    """The record of a batch of two rows."""
    (tmp_path / "in.csv").write_text("prompt,country,text\na,b,c\nd,e,f\n")
    run = olc("batch", str(tmp_path / "in.csv"), "-o", str(tmp_path / name), "-m", model, *arguments)
    assert run.code == 0, run.messages
    return json.loads((tmp_path / f"{name}.record.json").read_text())


def test_the_record_of_a_batch_has_what_was_said(olc: Olc, model: str, tmp_path: Path) -> None:
    said = {name: value for name, (_, value) in GIVEN.items()} | {"logit_bias": [["40", 1.5]]}
    record = batch_record(olc, model, tmp_path, "-e", *ALL, "--num-samples", "2", "--carry", "country", "--batch-size", "3")
    said |= {"num_samples": 2, "carry": {"others": False, "names": ["country"]}, "source": "in.csv", "format_name": "csv"}
    said |= {"output": "out.jsonl", "engine_name": "local", "server": None, "quantize": None, "device": "cpu"}
    said |= {"batch_size_text": 3}
    found = {name: list(_values(record, TOLD["batch"][name].split("."))) for name in said}
    assert found == {name: [value] for name, value in said.items()}
    record = batch_record(olc, model, tmp_path, "--score", "--context-column", "country", "--stride", "77", name="scores.jsonl")
    assert record["settings"]["scoring"] == {"context_column": "country", "stride": 77}
    chosen = batch_record(olc, model, tmp_path, *FEW_SHOT, *CHOSEN, name="chosen.jsonl")["settings"]
    assert [chosen[name] for name in ("choices", "choices_normalize", "calibrate_with")] == [
        *(["positive", "negative"], "token", "N/A")
    ]
    assert {name: chosen["examples"][name] for name in ("shots", "seed", "balance", "choices_prefix")} == {
        **{"shots": 2, "seed": 3, "balance": True, "choices_prefix": "-"}
    }
    assert "Sentiment" in chosen["template"]["template"]


def _values(part: Any, path: list[str]) -> Iterator[Any]:
    """What stands at a path, of each entry of a list in it."""
    if not path:
        yield part
    elif isinstance(part, list):
        for one in part:
            yield from _values(one, path)
    elif isinstance(part, dict) and path[0] in part:
        yield from _values(part[path[0]], path[1:])


def test_sampling_and_model_options_are_all_of_them() -> None:
    """A field of the two configurations that no command line has would be in no record either."""
    assert {field.name for field in fields(ModelSpec)} == {*MODEL, "offline"}
    required = json.loads(schema("record"))["properties"]["options"]["anyOf"][0]["required"]
    assert {field.name for field in fields(SamplingConfig)} <= set(required)
