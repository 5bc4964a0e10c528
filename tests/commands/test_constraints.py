"""--regex, --json-schema and --grammar on the command line, with the demo model and with a random one."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import openllama_cli
from tests.conftest import Olc
from tests.support.batches import read

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "legs": {"enum": [2, 4, 6, 8]}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
DEMO = ("-m", "demo", "--dtype", "float32", "--no-server")


def test_a_completion_matches(olc: Olc, tmp_path: Path) -> None:
    result = olc("complete", "The capital of France is", "--regex", r" [A-Z][a-z]{4}\.", *DEMO)
    assert (result.code, result.text) == (0, " Paris.\n")
    (tmp_path / "animal.json").write_text(json.dumps(SCHEMA))
    for given in (json.dumps(SCHEMA), str(tmp_path / "animal.json")):
        result = olc("complete", "A spider:", "--json-schema", given, *DEMO)
        assert result.code == 0, result.messages
        jsonschema.validate(json.loads(result.text), SCHEMA)
        assert result.messages == ""
    (tmp_path / "sum.lark").write_text('start: NUMBER (" + " NUMBER)~1..3\nNUMBER: /[1-9][0-9]?/\n')
    result = olc("complete", "Sum: ", "--grammar", str(tmp_path / "sum.lark"), "--seed", "3", *DEMO)
    assert re.fullmatch(r"[1-9]\d?( \+ [1-9]\d?){1,3}", result.text[:-1])


def test_what_is_cut_is_said_to_be_incomplete(olc: Olc) -> None:
    result = olc("complete", "A spider:", "--json-schema", json.dumps(SCHEMA), "-n", "4", *DEMO)
    assert result.code == 0
    assert "the text is incomplete, no match of --json-schema: cut off after 4 tokens; -n 8" in result.messages
    # With as many tokens as there is room for.
    result = olc("complete", "A" * 990, "--regex", "b{9999}", "-n", "30", *DEMO)
    more = re.search(r"-n (\d+) gives it more", result.messages)
    assert more is not None, result.messages
    assert olc("complete", "A" * 990, "--regex", "b{9999}", "-n", more[1], *DEMO).code == 0
    result = olc("generate", "A", "B", "--regex", "b{20}", "-n", "2", *DEMO)
    assert "2 of 2 texts are incomplete" in result.messages
    (choice,) = json.loads(olc("complete", "A spider:", "--json-schema", json.dumps(SCHEMA), "-n", "4", "--json", *DEMO).text)[
        "choices"
    ]
    assert (choice["finish_reason"], choice["olc"]) == ("length", {"constraint": {"complete": False}})
    (choice,) = json.loads(olc("complete", "A", "--regex", " spider", "--json", *DEMO).text)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (" spider", "stop")
    assert choice["olc"] == {"constraint": {"complete": True}}


def test_generate_and_its_samples(olc: Olc) -> None:
    result = olc("generate", "A spider", "", "--regex", r"[ab]{3}", "--json", "--seed", "1", *DEMO)
    for completion in json.loads(result.text)["completions"]:
        assert re.fullmatch("[ab]{3}", completion["text"])
        assert completion["constraint"] == {"complete": True}
    traced = json.loads(olc("generate", "A", "--regex", " (x|y)", "--trace", "--json", "--seed", "1", *DEMO).text)
    assert traced["traces"][0]["text"] in (" x", " y")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--regex", "(?=a)b"], "look-around, including look-ahead and look-behind, is not supported, at character 1: (?="),
        (["--json-schema", '{"not": {}}'], '--json-schema cannot be used: "not" is not supported, at #'),
        (["--json-schema", "missing.json"], "cannot read missing.json"),
        (["--grammar", "missing.lark"], "cannot read missing.lark"),
        (["--json-schema", ""], "--json-schema is empty"),
        (["--regex", r"[^\s\S]"], r"--regex cannot be met: no text matches it"),
        (["--regex", "a", "--json-schema", "{}"], "--regex cannot be combined with --json-schema"),
        (["--regex", "a", "--engine", "transformers"], "--regex cannot be used with --engine transformers"),
        (["--regex", "a", "--choices", "a,b"], "--regex cannot be combined with --choices"),
    ],
)
def test_wrong_usage(olc: Olc, options: list[str], words: str) -> None:
    result = olc("complete", "x", *options)
    assert result.code == 2
    assert words in result.messages


def test_a_wrong_file_is_named(olc: Olc, tmp_path: Path) -> None:
    (tmp_path / "wrong.lark").write_text("start: x\n")
    result = olc("complete", "x", "--grammar", str(tmp_path / "wrong.lark"))
    assert result.code == 2
    assert f'--grammar {tmp_path / "wrong.lark"} cannot be used: unknown name: "x", in line 1' in result.messages


def test_rows_of_a_batch_bring_their_own(olc: Olc, tmp_path: Path, tiny_model: Path) -> None:
    body = {
        "prompt": "c",
        "max_tokens": 60,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    }
    rows: list[dict[str, Any]] = [
        {"prompt": "a"},
        {"prompt": "b", "regex": "[xy]{2}"},
        {"prompt": "c", "json_schema": SCHEMA, "max_tokens": 60},
        {"prompt": "d", "grammar": 'start: "p" | "q"'},
        {"prompt": "e", "regex": "(?<=a)b"},
        {"custom_id": "f", "method": "POST", "url": "/v1/completions", "body": body},
        {"prompt": "g", "json_schema": SCHEMA, "max_tokens": 3},
        {"prompt": "h", "regex": "z+", "n": 2, "max_tokens": 3, "temperature": 1},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ("-m", str(tiny_model), "--dtype", "float32")
    made = []
    for size in ("1", "4"):
        output = tmp_path / f"out{size}.jsonl"
        result = olc("batch", str(tmp_path / "in.jsonl"), "-o", str(output), "--regex", r"\d{3}", "--batch-size", size, *where)
        assert result.code == 3, result.messages
        made.append(read(output))
    assert made[0] == made[1]
    one, two, three, four, five, six, seven, eight = made[0]
    assert re.fullmatch(r"\d{3}", one["text"])
    assert re.fullmatch("[xy]{2}", two["text"])
    assert four["text"] in ("p", "q")
    assert [row["constraint"] for row in (one, two, three, four)] == [{"complete": True}] * 4
    (choice,) = six["response"]["body"]["choices"]
    for text in (three["text"], choice["text"]):
        jsonschema.validate(json.loads(text), SCHEMA)
    assert choice["olc"] == {"constraint": {"complete": True}}
    assert five["error"]["code"] == "bad_option"
    assert five["error"]["message"].startswith("regex cannot be used: look-around")
    assert (seven["finish_reason"], seven["constraint"]) == ("length", {"complete": False})
    assert [re.fullmatch("z+", sample["text"]) is not None for sample in eight["samples"]] == [True, True]


def test_columns_of_a_table(olc: Olc, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "in.csv").write_text('prompt,regex,json_schema\na," \\d{2}",\nb,,"{""enum"": [""u"", ""v""]}"\nc,12,\n')
    output = tmp_path / "out.jsonl"
    result = olc("batch", str(tmp_path / "in.csv"), "-o", str(output), "-m", str(tiny_model), "--dtype", "float32")
    assert result.code == 0, result.messages
    one, two, three = (row["text"] for row in read(output))
    assert re.fullmatch(r" \d{2}", one)
    assert json.loads(two) in ("u", "v")
    assert three == "12"


def test_from_python(tiny_model: Path) -> None:
    model = openllama_cli.load(str(tiny_model), dtype="float32", progress=False)
    made = model.complete("a", regex=r"[ab]{4}")
    assert re.fullmatch(r"[ab]{4}", made.text)
    assert (made.complete, made.finish_reason) == (True, "stop")
    documents = model.complete(["a", "b"], n=2, json_schema=SCHEMA, seed=1, max_tokens=80)
    for one in (one for pair in documents for one in pair):
        jsonschema.validate(json.loads(one.text), SCHEMA)
    assert model.complete("a", max_tokens=2).complete is None
    assert "".join(piece.text for piece in model.stream("a", regex=r"[ab]{4}")) == made.text


def test_a_record_has_the_constraint_and_is_made_again(olc: Olc, tmp_path: Path) -> None:
    made = olc("complete", "A", "--regex", r" [a-z]{3}\d", "--seed", "4", "--json", *DEMO)
    record = json.loads(made.text)["olc"]["record"]
    assert (record["options"]["regex"], record["options"]["grammar"]) == (r" [a-z]{3}\d", None)
    (tmp_path / "made.json").write_text(made.text)
    again = olc("replay", str(tmp_path / "made.json"))
    assert again.code == 0, again.messages
