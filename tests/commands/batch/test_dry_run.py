"""`olc batch --dry-run`: what it says beforehand is what the batch then does, and it leaves nothing behind."""

import json
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.forecast import handful
from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.survey import Survey
from tests.conftest import Olc
from tests.support.batches import read

OPTIONS = ("--dtype", "float32", "-n", "12")
ROWS = [
    {"prompt": "the quick"},
    {"prompt": "one", "n": 3, "seed": 1, "max_tokens": 4},
    {"prompt": "two", "temprature": 1},
    {"prompt": "far too long for it", "max_tokens": 100_000},
    {"prompt": "which", "choices": ["a", "bc"]},
    {"prompt": "short of room"},
]


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return source


def dry_run(olc: Olc, source: Path, model: str, *options: str, code: int = 0) -> dict[str, Any]:
    result = olc("batch", str(source), "-m", model, *OPTIONS, *options, "--dry-run", "--json")
    assert result.code == code, result.messages
    document: dict[str, Any] = json.loads(result.text)
    return document


def test_it_says_what_the_batch_then_does(olc: Olc, model: str, tmp_path: Path) -> None:
    source = rows_file(tmp_path, ROWS)
    told = dry_run(olc, source, model, code=3)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert olc("batch", str(source), "-o", str(tmp_path / "out.jsonl"), "-m", model, *OPTIONS).code == 3
    made = read(tmp_path / "out.jsonl")
    assert told["rows"] == len(made)
    failed = [(row["custom_id"], row["error"]["code"]) for row in made if row["error"]]
    assert [(row["custom_id"], row["code"]) for row in told["failing"]["first"]] == failed
    assert told["failing"] == {"rows": 2, "codes": {"bad_option": 1, "context_length_exceeded": 1}} | {
        "first": told["failing"]["first"]
    }
    usage = [row["usage"] for row in made if row["usage"]]
    assert told["prompt_tokens"]["total"] == sum(tokens["prompt_tokens"] for tokens in usage)
    assert told["new_tokens_at_most"] == 12 + 3 * 4 + 12
    completed = sum(row["usage"]["completion_tokens"] for row in made if row["usage"] and "choices" not in row)
    assert told["estimate"]["new_tokens"] == completed, "all rows were measured"
    assert (told["measured"]["rows"], told["measured"]["unfinished"]) == (4, 0)
    assert told["memory"]["cache_bytes"] > 0
    assert told["batch_size"] >= 1


def test_scored_rows_need_no_new_tokens(olc: Olc, model: str, tmp_path: Path) -> None:
    source = rows_file(tmp_path, [{"prompt": "the quick brown"}])
    result = olc("batch", str(source), "-m", model, "--dtype", "float32", "--score", "--dry-run", "--json")
    told = json.loads(result.text)
    assert told["new_tokens_at_most"] == 0
    assert told["estimate"]["decode_seconds"] == 0
    assert told["measured"]["decode_tokens_per_s"] is None


def test_a_long_row_is_measured_where_the_others_are_too_short_to_tell() -> None:
    lengths = {"few": [3, 3, 2000, 5], "enough": [100, 100, 2000], "long": [2000, 3, 3]}
    rows = {name: [Row(place, str(place), tokens=(1,) * n) for place, n in enumerate(ns)] for name, ns in lengths.items()}
    measured = {name: [row.index for row in handful(Survey(2048, drawn=drawn), 16)] for name, drawn in rows.items()}
    assert measured == {"few": [0, 1, 2], "enough": [0, 1], "long": [0]}


def test_a_text_longer_than_the_context_is_scored_in_windows(olc: Olc, model: str, tmp_path: Path) -> None:
    cache = []
    for name, times in (("long", 700), ("longer", 900)):
        (source := tmp_path / f"{name}.txt").write_text("The sky is blue. " * times + "\n")
        run = olc("batch", str(source), "-m", model, "--score", "--dry-run", "--json")
        cache.append(json.loads(run.text)["memory"]["cache_bytes"])
    assert cache[0] == cache[1]


def test_where_no_row_can_run_nothing_is_measured(olc: Olc, model: str, tmp_path: Path) -> None:
    told = dry_run(olc, rows_file(tmp_path, ROWS[2:4]), model, code=3)
    assert told["failing"]["rows"] == 2
    assert told["measured"] is told["estimate"] is told["memory"] is None


def test_rows_that_the_context_cuts_are_counted(olc: Olc, model: str, tmp_path: Path) -> None:
    source = tmp_path / "rows.txt"
    source.write_text("the quick\n")
    result = olc("batch", str(source), "-m", model, "--dtype", "float32", "-t", str(_template(tmp_path)), "--dry-run")
    assert result.code == 0, result.messages
    assert "1 row ends where the model's context does" in result.text


def _template(folder: Path) -> Path:
    path = folder / "long.toml"
    path.write_text('template = "{{ prompt }}"\nmax_tokens = 100000\n')
    return path


def test_its_words_in_a_pipe(olc: Olc, model: str, tmp_path: Path) -> None:
    result = olc("batch", str(rows_file(tmp_path, ROWS)), "-m", model, *OPTIONS, "--dry-run")
    lines = dict(line.split("\t", 1) for line in result.text.splitlines() if "\t" in line)
    assert lines["rows"] == "6, 2 of which would fail"
    assert lines["new tokens"].startswith("at most 36; about ")
    assert lines["time"].startswith("about 0:")
    assert lines["row-2"].startswith("3\tbad_option\tunknown field 'temprature'")
    assert "2 of 6 rows would fail: 1 bad_option, 1 context_length_exceeded" in result.messages


@pytest.mark.parametrize("options", [("--server", "http://localhost:1"), ("--engine", "ray")])
def test_what_runs_elsewhere_is_not_measured_here(olc: Olc, model: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    result = olc("batch", str(rows_file(tmp_path, ROWS)), "--dry-run", *options)
    assert result.code == 2
    assert "--dry-run cannot be combined with" in result.messages


def test_an_output_that_the_batch_would_refuse_is_refused(refused: Olc, model: str, tmp_path: Path) -> None:
    source = str(rows_file(tmp_path, ROWS[:1]))
    for output, said in (
        (str(tmp_path / "no" / "out.jsonl"), "does not exist"),
        (str(tmp_path / "out.xlsx"), ".xlsx"),
        (source, "is the same file as OUTPUT"),
    ):
        assert said in refused("batch", source, "-o", output, "-m", model, "--dry-run").messages
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_from_stdin(olc: Olc, model: str) -> None:
    result = olc("batch", "-", "--format", "txt", "-m", model, *OPTIONS, "--dry-run", "--json", stdin=b"a\nb\n")
    assert json.loads(result.text)["rows"] == 2


def test_rows_that_take_too_long_are_told_apart(olc: Olc, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.batch.forecast._MOST_SECONDS", 0.0)
    told = dry_run(olc, rows_file(tmp_path, ROWS[:1]), model, "--ignore-eos")
    assert told["measured"]["unfinished"] == 1
    assert told["measured"]["decode_tokens_per_s"] > 0
    assert told["estimate"]["new_tokens"] == 12
