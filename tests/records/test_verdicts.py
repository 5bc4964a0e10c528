"""The JSON of `olc replay` and `olc diff`: every kind of difference, held against the schemas that ship."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from openllama_cli.records.schemas import names, schema
from tests.conftest import Olc
from tests.records.test_batches import batch, change, json_lines
from tests.support.schemas import valid

__all__ = ["batch"]

SAMPLED = ("complete", "The sky is", "-n", "5", "--temperature", "1", "-s", "2", "--num-samples", "3", "--logprobs", "2")
CHOSEN = ("complete", "The sky is", "--choices", "blue,green,red")


def other_tokens(record: Any) -> None:
    record["completions"][0]["ids"][1] += 1
    record["completions"][1]["ids"].append(5)
    record["completions"][1]["logprobs"].append(-1.5)
    del record["completions"][2]["ids"][3:], record["completions"][2]["logprobs"][3:]
    record["versions"]["torch"] = "1.0"


def other_scores(record: Any) -> None:
    record["prompts"][0]["logprobs"][2] = None
    record["prompts"][0]["logprobs"][3] += 0.5


def other_answer(record: Any) -> None:
    for branch in record["prompts"][0]["branches"][:2]:
        branch["logprobs"][0] -= 9


def others_kept(record: Any) -> None:
    for place, completion in zip((1, None, 0), record["completions"], strict=True):
        completion["choice"] = place


CHANGES: list[tuple[tuple[str, ...], Callable[[Any], None], str]] = [
    (SAMPLED, other_tokens, "partings"),
    (("score", "The sky is blue"), other_scores, "scores"),
    (CHOSEN, other_answer, "scores"),
    (SAMPLED, others_kept, "best"),
]


@pytest.mark.parametrize(("arguments", "what", "field"), CHANGES)
def test_what_replay_says_of_a_result_is_as_the_schema(
    olc: Olc, made: Any, model: str, tmp_path: Path, arguments: tuple[str, ...], what: Callable[[Any], None], field: str
) -> None:
    path, changed = made(*arguments), tmp_path / "changed.json"
    document = json.loads(path.read_text())
    what(document["olc"]["record"])
    changed.write_text(json.dumps(document))
    runs = [olc("replay", str(path), "-m", model, "--json"), olc("replay", str(changed), "-m", model, "--json")]
    runs += [olc("replay", str(path), "--against", str(changed), "--json")]
    assert [run.code for run in runs] == [0, 1, 1], [run.messages for run in runs]
    for run in runs:
        told = json.loads(run.text)
        valid(told, "replay")
        assert told["equal"] is (run.code == 0)
        assert told[field] or run.code == 0


def test_what_replay_says_of_a_batch_is_as_the_schema(olc: Olc, batch: Any, model: str) -> None:
    rows = [{"custom_id": name, "prompt": name, "logprobs": 3} for name in ("text", "ends", "reason", "failed", "prompt")]
    record = batch((".jsonl", json_lines(rows), "out.jsonl", ("-n", "6")))

    def changed(content: str) -> str:
        text, ends, reason, failed, prompt = map(json.loads, content.splitlines())
        text["logprobs"]["tokens"][2] = "~"
        text["text"] += "~"
        ends["text"] += "~"
        ends["logprobs"] = None
        reason["finish_reason"] = "stop"
        failed |= {"text": None, "finish_reason": None, "error": {"code": "out_of_memory", "message": "no"}}
        prompt["prompt"] = "promise"
        return json_lines([text, ends, reason, failed, prompt])

    def told(*arguments: str) -> set[str]:
        run = olc("replay", *arguments, "--json")
        document = json.loads(run.text)
        valid(document, "replay")
        assert document["equal"] is (run.code == 0)
        return {parting["cause"] for parting in document["partings"]}

    assert told(str(record), "-m", model) == set()
    change(record, changed)
    assert told(str(record), "-m", model) == {"text", "finish_reason", "error", "prompt"}
    other = batch((".jsonl", json_lines(rows), "other.jsonl", ("-n", "6")))
    assert told(str(record), "--against", str(other)) == {"text", "finish_reason", "error", "prompt"}
    scored = batch((".txt", "The sky is blue\n", "scored.jsonl", ("--score",)))
    change(scored, lambda text: text.replace('"logprob": -', '"logprob": -1', 1))
    assert told(str(scored), "-m", model) == {"score"}
    chosen = batch("choices")
    change(chosen, lambda text: text.replace('""logprob"": -', '""logprob"": -1', 1))
    assert told(str(chosen), "-m", model) == {"choice"}


def row(name: str, text: str | None, **more: Any) -> dict[str, Any]:
    fields = {"custom_id": name, "prompt": "Sky:", "text": text, "finish_reason": "stop", "usage": None, "error": None}
    return fields | more


def scored(*tokens: str, top: float) -> dict[str, Any]:
    values = [-0.5] * len(tokens)
    alternatives = [{token: -0.5, "x": top, "y": top - 1} for token in tokens]
    offsets = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
    return {"tokens": list(tokens), "token_logprobs": values, "top_logprobs": alternatives, "text_offset": offsets}


SIDES = (
    [
        row("same", "a"),
        row("tokens", "ax", logprobs=scored("a", "x", top=-1.0)),
        row("ends", "a", logprobs=scored("a", top=-1.0)),
        row("characters", "abc"),
        row("prompt", "a", prompt="Sea:"),
        row("fails", "a"),
        row("scores", None, score={"logprob": -3.5, "tokens": 2}),
        row("left", "a"),
    ],
    [
        row("same", "a"),
        row("tokens", "ay", logprobs=scored("a", "y", top=-1.5)),
        row("ends", "ab", logprobs=scored("a", "b", top=-1.5)),
        row("characters", "abd", finish_reason="length"),
        row("prompt", "a"),
        row("fails", None, error={"code": "out_of_memory", "message": "no"}),
        row("scores", None, score={"logprob": -3.25, "tokens": 2}),
        row("right", "a"),
    ],
)


def diff(olc: Olc, *arguments: str) -> list[dict[str, Any]]:
    """The lines of `olc diff --json`, as the schema says."""
    found = [json.loads(line) for line in olc("diff", *arguments, "--json").text.splitlines()]
    for line in found:
        valid(line, "diff")
    assert [line for line in found if "summary" in line] == found[-1:]
    return found


def test_what_diff_says_is_as_the_schema(olc: Olc, made: Any, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    for path, rows in zip(paths, SIDES, strict=True):
        Path(path).write_text(json_lines(rows))
    *rows, last = diff(olc, *paths)
    assert {line["cause"] for line in rows} == {"text", "prompt", "error", "only in A", "only in B"}
    assert last["summary"]["largest_logprob_difference"] == 0.25
    assert {line["divergence"]["unit"] for line in rows if line["divergence"]} == {"token", "character"}
    results = [str(made("generate", "The sky is", "-n", "4", "-s", seed, "--logprobs", name=f"{seed}.json")) for seed in "12"]
    [line, last] = diff(olc, *results)
    assert (line["cause"], list(line["divergence"]["a"]), last["summary"]["changes"]) == (
        *("options", ["id", "logprob"]),
        ["--seed was 1, now 2"],
    )
    assert diff(olc, results[0], results[0])[0]["summary"]["different"] == 0


def test_schemas_refuse_what_no_command_says() -> None:
    """A typing error in a name makes a schema that allows all."""
    assert {"check", "diff", "replay", "trace"} <= set(names())
    for name in ("check", "diff", "replay", "trace"):
        for document in ({}, {"equal": True}, {"summary": {}}, [], {"model": "m", "seed": None, "traces": [], "olc": {}}):
            with pytest.raises(jsonschema.ValidationError):
                valid(document, name)
        for part in objects(json.loads(schema(name))):
            assert "additionalProperties" in part
            assert set(part.get("required", ())) <= set(part.get("properties", ()))


def objects(part: Any) -> list[dict[str, Any]]:
    """Every object that a schema describes."""
    if isinstance(part, list):
        return [found for one in part for found in objects(one)]
    if not isinstance(part, dict):
        return []
    own = [part] if part.get("type") == "object" else []
    return own + [found for one in part.values() for found in objects(one)]
