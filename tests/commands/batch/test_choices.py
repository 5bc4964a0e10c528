"""`olc batch` with choices: the rows are what `Model.choose` gives, wherever they run. A random model: no answer is judged."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import openllama_cli
from tests.conftest import Olc
from tests.support.batches import read
from tests.support.serve.completions import CompletionsServer
from tests.support.serve.servers import running

TEXTS = ["blue", "dark green", "1", "10"]
CHOICES = ("--choices", ",".join(TEXTS))
TEMPLATE = """
template = '''Review: {{ text }}{{ more }}
It is:'''
choices = ["good", "bad"]
choices_prefix = "\\t"
max_tokens = 4

[defaults]
more = "!"
"""


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> openllama_cli.Model:
    return openllama_cli.load(str(tiny_model), dtype="float32", progress=False)


@pytest.fixture
def batch(olc: Olc, tiny_model: Path, tmp_path: Path) -> Olc:
    """`batch("in.csv", "prompt\\none\\n", "--choices", "a,b")` writes out.jsonl."""

    def run(name: str, content: str, *arguments: str, code: int = 0, output: str = "out.jsonl", local: bool = True) -> Any:
        (tmp_path / name).write_text(content)
        place = ("-m", str(tiny_model), "--dtype", "float32") if local else ()
        result = olc("batch", str(tmp_path / name), "-o", str(tmp_path / output), *place, *arguments)
        assert result.code == code, result.messages
        return result

    return run


def documents(chosen: openllama_cli.Choice) -> list[dict[str, Any]]:
    return [one.document() for one in chosen.alternatives]


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def openai(prompt: Any, **body: Any) -> dict[str, Any]:
    return {"custom_id": f"o{prompt}", "method": "POST", "url": "/v1/completions", "body": {"prompt": prompt, **body}}


def test_rows_are_what_python_chooses_in_every_format(batch: Olc, model: openllama_cli.Model, tmp_path: Path) -> None:
    prompts = ["The sky is", "", "the quick brown fox " * 5, "The sky is "]
    chosen = model.choose(prompts, TEXTS, normalize="byte", calibrate_with="N/A")
    options = (*CHOICES, "--choices-normalize", "byte", "--calibrate-with", "N/A")
    batch("in.jsonl", lines(*({"prompt": prompt, "answer": "blue"} for prompt in prompts)), *options)
    rows = read(tmp_path / "out.jsonl")
    assert [row["text"] for row in rows] == [one.text for one in chosen]
    assert [row["choices"] for row in rows] == [documents(one) for one in chosen]
    assert {(row["finish_reason"], row["answer"], row["error"]) for row in rows} == {("stop", "blue", None)}
    assert list(rows[0]) == ["custom_id", "index", "prompt", "text", "finish_reason", "usage", "error", "choices", "answer"]
    batch("in.txt", "".join(f"{prompt}\n" for prompt in prompts), *options, output="table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [json.loads(row["choices"]) for row in table] == [documents(one) for one in chosen]
    assert [row["text"] for row in table] == [one.text for one in chosen]
    batch("o.jsonl", lines(*map(openai, prompts)), *options, output="o.out.jsonl")
    bodies = [row["response"]["body"] for row in read(tmp_path / "o.out.jsonl")]
    assert [body["choices"][0]["text"] for body in bodies] == [one.text for one in chosen]
    assert [body["olc"]["choices"] for body in bodies] == [documents(one) for one in chosen]


def test_a_row_may_bring_its_own_choices(batch: Olc, model: openllama_cli.Model, tmp_path: Path) -> None:
    batch("in.csv", 'prompt,choices\na,"[""x"", ""y, z""]"\nb,\n', "-n", "3", "--choices-prefix", "->")
    first, second = read(tmp_path / "out.jsonl")
    assert first["choices"] == documents(model.choose("a", ["x", "y, z"], prefix="->"))
    assert "choices" not in second
    assert second["usage"]["completion_tokens"] == 3
    rows = lines({"prompt": "a", "choices": ["x", "y"]}, {"prompt": "a"}, openai("a", choices=["x", "y"], max_tokens=16))
    batch("in.jsonl", rows, *CHOICES, output="own.jsonl")
    own, common, body = read(tmp_path / "own.jsonl")
    assert own["choices"] == documents(model.choose("a", ["x", "y"])) == body["response"]["body"]["olc"]["choices"]
    assert common["choices"] == documents(model.choose("a", TEXTS))
    # As data it goes through.
    batch("in.jsonl", lines({"prompt": "a", "choices": {"x": 1}}), "--carry", "all,choices", "-n", "1", output="data.jsonl")
    assert read(tmp_path / "data.jsonl")[0]["input_choices"] == {"x": 1}


def test_a_row_that_cannot_be_chosen_is_an_error_row(batch: Olc, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "choices": ["x", "x"]},
        {"prompt": "a", "choices": ["x"]},
        {"prompt": "a", "choices": "x,y"},
        {"prompt": "a", "temperature": 0.5},
        {"prompt": "a", "echo": True},
        {"prompt": "x " * 300},
        openai([1, 2]),
        {"prompt": "fine"},
    ]
    batch("in.jsonl", lines(*rows), *CHOICES, code=3)
    codes = [row["error"] and row["error"]["code"] for row in read(tmp_path / "out.jsonl")]
    assert codes == [
        *("choices_duplicate", "choices_count", "bad_option", "bad_option", "bad_option"),
        *("context_length_exceeded", "unsupported_option", None),
    ]


def test_a_template_chooses_and_is_calibrated_with_its_input_left_empty(
    batch: Olc, model: openllama_cli.Model, tmp_path: Path
) -> None:
    template = tmp_path / "review.toml"
    template.write_text(TEMPLATE)
    batch("in.csv", "text,more\nNice,?\nBad,\n", "-t", str(template), "--calibrate")
    for row, prompt, neutral in zip(read(tmp_path / "out.jsonl"), ("Nice?", "Bad"), ("?", ""), strict=True):
        wanted = model.choose(
            f"Review: {prompt}\nIt is:", ["good", "bad"], prefix="\t", calibrate_with=f"Review: {neutral}\nIt is:"
        )
        assert row["choices"] == documents(wanted)
    batch("in.csv", "text\nNice\n", "-t", str(template), "--no-choices", output="free.jsonl")
    assert read(tmp_path / "free.jsonl")[0]["usage"]["completion_tokens"] == 4


def test_a_neutral_prompt_that_cannot_run_fails_its_rows(batch: Olc, tmp_path: Path) -> None:
    batch("in.txt", "a\nb\n", *CHOICES, "--calibrate-with", "x " * 300, code=3)
    errors = [row["error"] for row in read(tmp_path / "out.jsonl")]
    assert {error["code"] for error in errors} == {"context_length_exceeded"}
    assert all(error["message"].startswith("the neutral prompt: ") for error in errors)


def test_other_choices_are_another_run(batch: Olc, tmp_path: Path) -> None:
    bad = lines({"prompt": "a"}, {"prompt": "x " * 300})
    batch("in.jsonl", bad, *CHOICES, code=3)
    for options, words in (
        (("--choices", "a,b"), '--choices was ["blue", '),
        ((*CHOICES, "--choices-normalize", "token"), "--choices-normalize was not given, now token"),
        ((*CHOICES, "--choices-prefix", ":"), "--choices-prefix was not given, now :"),
        ((*CHOICES, "--calibrate"), "--calibrate-with was not given"),
        ((), "now not given"),
    ):
        assert words in batch("in.jsonl", bad, *options, code=2).messages
    assert "2 rows" in batch("in.jsonl", bad, *CHOICES, code=3).messages


def test_sampling_options_and_other_servers_are_refused(batch: Olc) -> None:
    assert "--calibrate requires choices, and no row" in batch("in.txt", "a\n", "--calibrate", code=2).messages
    assert (
        "--temperature cannot be combined with --choices"
        in batch("in.txt", "a\n", *CHOICES, "--temperature", "1", code=2).messages
    )
    with CompletionsServer() as other:
        refused = batch("in.txt", "a\n", *CHOICES, "--server", other.url, code=2, local=False)
        assert "not olc's own server" in refused.messages
        rows = lines({"prompt": "a", "choices": ["x", "y"]}, {"prompt": "a"})
        assert "1 unsupported_option" in batch("in.jsonl", rows, "--server", other.url, code=3, local=False).messages


def test_olcs_own_server_gives_the_rows_of_a_batch_here(batch: Olc, tiny_model: Path, tmp_path: Path) -> None:
    rows = lines(
        *({"prompt": f"number {number} is", "answer": number} for number in range(9)),
        {"prompt": "a", "choices": ["x", "y"]},
        openai("The sky is"),
    )
    options = (*CHOICES, "--calibrate-with", "number is")
    batch("in.jsonl", rows, *options)
    with running(tiny_model) as server:
        batch("in.jsonl", rows, *options, "--server", server.url, output="served.jsonl", local=False)
    here, there = read(tmp_path / "out.jsonl"), read(tmp_path / "served.jsonl")
    assert there[:10] == here[:10]
    for one, other in zip(here[10:], there[10:], strict=True):
        ours, theirs = one["response"]["body"], other["response"]["body"]
        assert theirs["olc"]["choices"] == ours["olc"]["choices"]
        assert theirs["choices"][0]["text"] == ours["choices"][0]["text"]
        assert theirs["usage"] == ours["usage"]
