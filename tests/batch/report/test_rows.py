"""What is read of a finished OUTPUT, whatever its format, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.output.formats import encode
from openllama_cli.batch.output.output import OutputFiles, open_journal, write_output
from openllama_cli.batch.report.rows import Outcome, read_outcomes
from openllama_cli.errors import UsageError
from tests.support.batches import HEADER

CHOICES = [{"text": "yes", "probability": 0.75}, {"text": "no", "probability": 0.25}]


def row(index: int, text: str | None, **more: Any) -> dict[str, Any]:
    error = {"code": "x", "message": "y"} if text is None else None
    return {"custom_id": f"row-{index}", "index": index, "prompt": "p", "text": text, "usage": None, "error": error} | more


def openai_row(index: int, text: str | None, answer: str) -> dict[str, Any]:
    """As olc answers OpenAI's lines; whoever made the answer has put it beside."""
    error = {"code": "x", "message": "y"} if text is None else None
    body: Any = {"error": error} if text is None else {"choices": [{"text": text}], "olc": {"choices": CHOICES}}
    response = {"status_code": 400 if text is None else 200, "body": body}
    return {"id": f"batch_req_{index}", "custom_id": str(index), "response": response, "error": error, "answer": answer}


ROWS = [
    row(0, " yes", answer="yes", choices=CHOICES),
    row(1, None, answer="no"),
    row(2, "3", answer=3),
    row(3, "x", answer=""),
    row(4, "x"),
    row(5, 'a "b"\n,', answer="true", choices="a field of the input"),
]
SCORED = row(0, None, answer="a") | {"error": None, "finish_reason": None, "score": {"logprob": -1.5, "tokens": 1}}
OUTCOMES = [
    Outcome("yes", " yes", {"yes": 0.75, "no": 0.25}),
    Outcome("no", None),
    Outcome("3", "3"),
    Outcome(None, "x"),
    Outcome(None, "x"),
    Outcome("true", 'a "b"\n,'),
]


@pytest.mark.parametrize("suffix", [".jsonl", ".out", ".csv", ".tsv"])
def test_every_format_that_olc_writes_has_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"".join(encode(path, lambda: [json.dumps(document).encode() for document in ROWS])))
    assert list(read_outcomes(path)) == OUTCOMES


def test_probabilities_that_are_none_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    wrong = [[{"text": "yes", "probability": value}] for value in (float("nan"), float("inf"), -0.5, 2)]
    path.write_text("".join(json.dumps(row(0, "yes", answer="yes", choices=choices)) + "\n" for choices in wrong))
    assert [outcome.probabilities for outcome in read_outcomes(path)] == [None] * 4


def test_openai_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    rows = [openai_row(0, " yes", "yes"), openai_row(1, None, "no")]
    path.write_text("".join(json.dumps(document) + "\n" for document in rows))
    assert list(read_outcomes(path)) == OUTCOMES[:2]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("out.jsonl", "prompt\n", "not_output"),
        ("out.jsonl", '{"prompt": "x"}\n', "not_output"),
        ("out.jsonl", "[]\n", "not_output"),
        ("out.jsonl", '{"text": null, "error": null}\n', "not_output"),
        ("out.jsonl", '{"response": {}, "error": null}\n', "not_output"),
        ("out.jsonl", "[" * 100_000, "not_output"),
        ("out.jsonl", b'{"text": "\xff"}\n', "not_output"),
        ("out.csv", "text,answer\nx,y\n", "not_output"),
        ("out.csv", "text,error_code,answer\nx,y\n", "not_output"),
        ("out.csv", b"text,error_code\n\xff,\n", "not_output"),
        ("out.csv", "", "not_output"),
        ("out.txt", "x\n", "usage"),
        ("out.jsonl", json.dumps(SCORED), "no_answers"),
        (
            "out.csv",
            "".join(bytes(part).decode() for part in encode(Path("x.csv"), lambda: [json.dumps(SCORED).encode()])),
            "no_answers",
        ),
    ],
)
def test_what_is_no_output_is_refused(tmp_path: Path, name: str, content: str | bytes, code: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        list(read_outcomes(path))
    assert caught.value.code == code
    assert str(path) in caught.value.cause


def test_an_unfinished_batch_is_refused_and_a_finished_one_read(tmp_path: Path) -> None:
    files = OutputFiles.of(tmp_path / "out.jsonl")
    with open_journal(files, HEADER, 2) as journal:
        journal.append(0, None, json.dumps(ROWS[0]).encode())
        with pytest.raises(UsageError, match="1 of 2 rows are done") as caught:
            list(read_outcomes(files.output))
        assert caught.value.code == "unfinished"
        journal.append(1, "x", json.dumps(ROWS[1]).encode())
        write_output(journal, files.output)
    # With a failed row the journal is kept.
    assert list(read_outcomes(files.output)) == OUTCOMES[:2]
    # Started over: what lies there is of the run before.
    open_journal(files, HEADER, 2, restart=True).close()
    with pytest.raises(UsageError) as caught:
        list(read_outcomes(files.output))
    assert caught.value.code == "unfinished"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(UsageError):
            list(read_outcomes(path))
