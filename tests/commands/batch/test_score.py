"""`olc batch --score`: the rows are what `Model.score` gives, wherever they run."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import openllama_cli
from tests.conftest import Olc
from tests.support.batches import finished, read
from tests.support.forked import Forked

TEXTS = ["the blue whale", "größer 🐋\n x ", "the quick brown fox " * 40, "x"]
NAMES = ["logprob", "bits", "tokens", "words", "bytes", "perplexity", "perplexity_per_word", "bits_per_byte"]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> openllama_cli.Model:
    return openllama_cli.load(str(tiny_model), dtype="float32", progress=False)


@pytest.fixture
def batch(olc: Olc, tiny_model: Path, tmp_path: Path) -> Any:
    """`batch("in.csv", "prompt\\none\\n")` scores into out.jsonl."""

    def run(name: str, content: str, *arguments: str, code: int = 0, output: str = "out.jsonl") -> Any:
        (tmp_path / name).write_text(content)
        place = ("-m", str(tiny_model), "--dtype", "float32")
        result = olc("batch", str(tmp_path / name), "-o", str(tmp_path / output), "--score", *place, *arguments)
        assert result.code == code, result.messages
        return result

    return run


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_are_what_python_scores_in_every_format(batch: Any, model: openllama_cli.Model, tmp_path: Path) -> None:
    wanted = [model.score(text).totals() for text in TEXTS]
    batch("in.jsonl", lines(*({"prompt": text, "answer": "yes"} for text in TEXTS)), "--batch-size", "2")
    rows = read(tmp_path / "out.jsonl")
    assert [row["score"] for row in rows] == wanted
    assert list(rows[0]) == ["custom_id", "index", "prompt", "text", "finish_reason", "usage", "error", "score", "answer"]
    assert list(rows[0]["score"]) == NAMES
    assert {(row["text"], row["finish_reason"], row["error"], row["answer"]) for row in rows} == {(None, None, None, "yes")}
    assert rows[0]["usage"]["prompt_tokens"] == rows[0]["score"]["tokens"] + 1
    batch("in.txt", "the blue whale\nx\n", output="table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    found = [[json.loads(row[f"score_{name}"]) for name in NAMES] for row in table]
    assert found == [list(wanted[0].values()), list(wanted[3].values())]
    assert table[0]["text"] == ""


def test_a_context_is_not_scored_and_goes_through(batch: Any, model: openllama_cli.Model, tmp_path: Path) -> None:
    contexts = ["Q: ", "", "the quick brown fox " * 40]
    fields = [{"prompt": "blue whale", "ground": context} for context in contexts]
    wanted = [model.score("blue whale", context, stride=50).totals() for context in contexts]
    options = ("--context-column", "ground", "--stride", "50")
    batch("in.jsonl", lines(*fields), *options)
    rows = read(tmp_path / "out.jsonl")
    assert [row["score"] for row in rows] == wanted
    assert [row["ground"] for row in rows] == contexts
    batch("in.csv", "prompt,ground\nblue whale,Q: \nblue whale,\n", *options, output="c.jsonl")
    assert [row["score"] for row in read(tmp_path / "c.jsonl")] == wanted[:2]
    assert "already complete" in batch("in.jsonl", lines(*fields), *options).messages
    again = batch("in.jsonl", lines(*fields), "--context-column", "ground", code=2)
    assert "--stride was 50, now not given" in again.messages


@pytest.mark.slow
def test_a_kill_loses_no_score_and_repeats_none(olc: Olc, batch: Any, tiny_model: Path, tmp_path: Path) -> None:
    fields = lines(*({"prompt": f"{number} the blue whale", "ground": "Q: " * (number % 3)} for number in range(60)))
    options = ("--context-column", "ground", "--batch-size", "2")
    batch("in.jsonl", fields, *options, output="whole.jsonl")
    output = tmp_path / "out.jsonl"
    place = ("-m", str(tiny_model), "--dtype", "float32")
    command = ("batch", str(tmp_path / "in.jsonl"), "-o", str(output), "--score", *place, *options)
    killed = Forked(*command, code="from tests.support.dying_writer import arm; arm('amid append', 35)")
    assert killed.wait() == -signal.SIGKILL, killed.err.decode()
    assert not output.exists()
    assert 30 < finished(output) < 60
    assert "resuming" in olc(*command).messages
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_wrong_rows_are_error_rows(batch: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": "x", "ground": "y"},
        {"prompt": "", "ground": "y"},
        {"prompt": "x"},
        {"prompt": "x", "ground": 3},
        {"prompt": "x", "ground": None},
        {"prompt": "x", "ground": "", "temperature": 1},
        {"custom_id": "o", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}},
    ]
    batch("in.jsonl", lines(*rows), "--context-column", "ground", code=3)
    codes = [None if row["error"] is None else row["error"]["code"] for row in read(tmp_path / "out.jsonl")]
    assert codes == [None, "empty_prompt", "missing_context", "invalid_type", None, "bad_option", "openai_line"]


@pytest.mark.parametrize(
    ("name", "content", "arguments", "words"),
    [
        ("in.jsonl", '{"prompt": "x"}\n', ("--temperature", "0.5"), "--temperature cannot"),
        ("in.jsonl", '{"prompt": "x"}\n', ("--choices", "a,b"), "--choices cannot"),
        ("in.jsonl", '{"prompt": "x"}\n', ("--annotate", "tokens"), "--annotate cannot"),
        ("in.jsonl", '{"prompt": "x"}\n', ("--stride", "255"), "--stride 255 is out of range"),
        ("in.jsonl", '{"prompt": "x"}\n', ("--context-column", "y"), "name the field"),
        ("in.jsonl", '{"prompt": "x"}\n', ("--context-column", "prompt"), "another meaning"),
        ("in.csv", "prompt\nx\n", ("--context-column", "y"), "no column 'y'"),
        ("in.txt", "x\n", ("--context-column", "y"), "needs columns"),
        ("in.jsonl", '{"method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}\n', (), "leave out --score"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    batch: Any, monkeypatch: pytest.MonkeyPatch, name: str, content: str, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr("openllama_cli.commands.batch.engines.load_model", None)
    assert words in batch(name, content, *arguments, code=2).messages


def test_options_of_scores_need_score_and_a_table(olc: Olc, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("x\n")
    for arguments in (("--stride", "3"), ("--score", "-o", str(tmp_path / "out.txt"))):
        assert olc("batch", str(tmp_path / "in.txt"), *arguments).code == 2
