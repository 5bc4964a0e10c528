"""`olc batch --report`: from a batch of the model to its figures, on a terminal, in a pipe and as JSON."""

import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.conftest import Olc
from tests.support.batches import GREEDY
from tests.support.terminals import on_a_terminal, without_color


def written(folder: Path, *, probabilities: bool = True) -> Path:
    """An OUTPUT of 20 rows, 15 of them right."""
    path = folder / "out.jsonl"
    lines = []
    for index in range(20):
        answer, text = "no" if index % 2 else "yes", "no" if index % 2 or index % 4 == 0 else "yes"
        choices = [{"text": text, "probability": 0.75}, {"text": "yes" if text == "no" else "no", "probability": 0.25}]
        lines.append({"text": f" {text}", "error": None, "answer": answer} | ({"choices": choices} if probabilities else {}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


PIPED = """\
accuracy	75.0 %, 15 of 20 rows
95 % interval	53.1 % to 88.8 % (Wilson)
confidence	75.0 % on average
calibration error	0.000 (expected, 10 bins)
Brier score	0.375

# by answer
answer	rows	texts	precision	recall	F1
yes	10	5	1.000	0.500	0.667
no	10	15	0.667	1.000	0.800

# answers (rows) and what was said instead (columns)
answer	yes	no	(other)
yes	5	5	0
no	0	10	0

# calibration: how often rows were right that were this sure
probability	rows	confidence	accuracy
"""


def test_a_pipe_gets_fields_and_tables(olc: Olc, tmp_path: Path) -> None:
    result = olc("batch", "--report", str(written(tmp_path)))
    assert (result.code, result.messages) == (0, "")
    assert result.text.startswith(PIPED)
    bins = dict(line.split("\t", 1) for line in result.text.removeprefix(PIPED).splitlines())
    assert len(bins) == 10
    assert (bins["0.7-0.8"], bins["0.9-1"]) == ("20\t0.750\t0.750", "0\t-\t-")


@pytest.mark.parametrize("columns", [60, 120])
def test_a_terminal_gets_tables_and_bars(tmp_path: Path, columns: int) -> None:
    shown = without_color(on_a_terminal("batch", "--report", str(written(tmp_path)), columns=columns))
    assert max(map(len, shown.splitlines())) <= columns
    assert "accuracy           75.0 %, 15 of 20 rows" in shown
    assert "0.7–0.8        20       0.750     0.750  █████████" in shown


def test_the_json_has_it_all_and_the_picture_is_written(olc: Olc, tmp_path: Path) -> None:
    picture = tmp_path / "r.svg"
    result = olc("batch", "--report", str(written(tmp_path)), "--json", "--svg", str(picture))
    document = json.loads(result.text)
    assert (document["rows"], document["compared"], document["correct"]) == (20, 20, 15)
    assert document["calibration"]["rows"] == 20
    assert "reliability of out.jsonl" in picture.read_text()
    assert f"wrote {picture}" in result.messages


def test_the_picture_is_one_whatever_the_name_of_output_is(olc: Olc, tmp_path: Path) -> None:
    odd = written(tmp_path).rename(tmp_path / os.fsdecode(b"a\x01\xff.jsonl"))
    assert olc("batch", "--report", str(odd), "--svg", str(tmp_path / "r.svg")).code == 0
    ElementTree.parse(tmp_path / "r.svg")


def test_a_batch_with_answers_can_be_reported_on(olc: Olc, model: str, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("prompt,answer,max_tokens\nx,never this,1\ny,nor this,1\nz,,1\nw,this,-1\n")
    for name in ("out.jsonl", "out.csv"):
        assert olc("batch", str(source), "-o", str(tmp_path / name), *GREEDY, "-m", model).code == 3
        document = json.loads(olc("batch", "--report", str(tmp_path / name), "--json").text)
        counts = {key: document[key] for key in ("rows", "failed", "without_answer", "compared", "correct")}
        assert counts == {"rows": 4, "failed": 1, "without_answer": 1, "compared": 2, "correct": 0}
        assert document["calibration"] is None


def test_answers_that_are_all_different_have_no_table(olc: Olc, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps({"text": str(n), "error": None, "answer": str(n)}) + "\n" for n in range(30)))
    assert (
        olc("batch", "--report", str(path)).text
        == "accuracy\t100.0 %, 30 of 30 rows\n95 % interval\t88.6 % to 100.0 % (Wilson)\n"
    )


def test_wrong_use_ends_in_two_lines(refused: Olc, tmp_path: Path) -> None:
    good, none, failed = written(tmp_path, probabilities=False), tmp_path / "none.jsonl", tmp_path / "failed.jsonl"
    none.write_text('{"text": "x", "error": null}\n')
    failed.write_text('{"text": null, "error": {"code": "x"}, "answer": "y"}\n')
    for arguments, said in (
        (("--report", str(none)), "no row of"),
        (("--report", str(failed)), "all rows of"),
        (("--report", str(tmp_path / "absent.jsonl")), "does not exist"),
        (("--report", str(good), "--svg", str(tmp_path / "x.svg")), "no row of"),
        (("--report", str(good), "--svg", str(tmp_path / "no" / "x.svg")), "cannot write"),
        (("in.txt", "--svg", "x.svg"), "--svg requires --report"),
        (("in.txt", "--json"), "--json requires --report"),
    ):
        assert said in refused("batch", *arguments).messages
    assert not (tmp_path / "x.svg").exists()
