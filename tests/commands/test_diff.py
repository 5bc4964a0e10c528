"""`olc diff`: exit codes, what a pipe, a terminal and a page get, and what it says of two runs of a real batch."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.conftest import Olc
from tests.support.terminals import on_a_terminal, without_color

HOSTILE = "\x1b[31mred\x07 \u202eabc <script>alert(1)</script> \ud800"


def line(index: int, text: str, **more: Any) -> str:
    fields = {"custom_id": f"row-{index}", "index": index, "prompt": f"Sky {index}:", "text": text, "finish_reason": "stop"}
    return json.dumps(fields | {"usage": None, "error": None} | more)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[str, str]:
    long = "The whale sings of krill in the cold sea. " * 20
    japanese = "\u6771\u4eac\u3067\u3059\u3002" * 12
    texts = [("same", "same"), (long + "It ends.", long + "It goes on. " * 100), (japanese + "a", japanese + "b")]
    texts += [(HOSTILE + "a", HOSTILE + "b"), ("cafe\u0301", "cafe\u0300")]
    names = []
    for side in (0, 1):
        path = tmp_path / f"{'ab'[side]}.jsonl"
        path.write_text("".join(line(index, pair[side]) + "\n" for index, pair in enumerate(texts)))
        names.append(str(path))
    return names[0], names[1]


def test_exit_codes_are_those_of_diff(olc: Olc, refused: Olc, sides: tuple[str, str]) -> None:
    same = olc("diff", sides[0], sides[0])
    assert (same.code, same.out, same.messages) == (0, b"", "olc: all 5 rows are equal\n")
    assert olc("diff", *sides).code == 1
    refused("diff", sides[0], "no_such.jsonl")
    refused("diff", "-", "-")
    refused("diff", *sides, "--html", "no/such/folder/page.html")


def test_what_is_no_output_is_told_by_its_kind(refused: Olc, sides: tuple[str, str], tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    for document, said in (
        ({"olc_journal": 1}, "it is the journal of a batch; name its OUTPUT"),
        ({"olc_record": 1}, "it is the record of a batch; name its OUTPUT"),
        ({"olc_record": 1, "command": "complete", "completions": []}, "it is the record of a result; name the result"),
        ({"entries": [], "totals": {}}, "it is the result of olc score; olc replay A --against B compares two"),
    ):
        other.write_text(json.dumps(document))
        assert said in refused("diff", sides[0], str(other)).messages


def test_files_without_a_common_row_are_told(olc: Olc, tmp_path: Path) -> None:
    for name, index in (("a", 0), ("b", 1)):
        (tmp_path / name).write_text(line(index, "x"))
    run = olc("diff", str(tmp_path / "a"), str(tmp_path / "b"))
    assert (run.code, run.messages.splitlines()[1:]) == (1, ["olc: no custom_id is in both"])


def test_a_pipe_gets_a_line_of_columns_a_row(olc: Olc, tmp_path: Path) -> None:
    for name, text in (("a", "x\ty"), ("b", "x\tz")):
        (tmp_path / name).write_text(line(0, text))
    run = olc("diff", str(tmp_path / "a"), str(tmp_path / "b"))
    assert run.text.splitlines()[0].split("\t")[:4] == ["custom_id", "cause", "unit", "index"]
    assert run.text.splitlines()[1:] == ["row-0\ttext\tcharacter\t2\ty\tz\t\t"]


def test_json_is_a_line_a_row_and_the_summary(olc: Olc, sides: tuple[str, str]) -> None:
    run = olc("diff", *sides, "--json")
    *rows, last = map(json.loads, run.text.splitlines())
    assert [row["custom_id"] for row in rows] == ["row-1", "row-2", "row-3", "row-4"]
    assert rows[3]["divergence"] == {"unit": "character", "index": 3, "a": {"text": "e\u0301"}, "b": {"text": "e\u0300"}}
    assert last["summary"]["causes"] == {"text": 4}
    assert run.messages == ""


def test_one_side_is_stdin(olc: Olc, sides: tuple[str, str]) -> None:
    assert olc("diff", sides[0], "-", stdin=Path(sides[0]).read_bytes()).code == 0


@pytest.mark.parametrize("columns", [20, 60, 120])
def test_no_line_is_wider_than_the_terminal(sides: tuple[str, str], columns: int) -> None:
    shown = on_a_terminal("diff", *sides, columns=columns, code=1)
    text = without_color(shown)
    assert max(map(cell_len, text.splitlines())) <= columns
    assert "\\x1b[31m" in text.replace("\n", "")
    assert "\u202e" not in text
    assert "\x1b[2m" in shown, "the common beginning is dim"


def test_a_terminal_shows_as_many_rows_as_asked_for(sides: tuple[str, str]) -> None:
    text = without_color(on_a_terminal("diff", *sides, "--show", "1", columns=80, code=1))
    assert ("row-1" in text, "row-2" in text, "3 more" in text) == (True, False, True)


def test_the_page_loads_nothing_and_runs_nothing(olc: Olc, sides: tuple[str, str], tmp_path: Path) -> None:
    assert olc("diff", *sides, "--html", str(tmp_path / "page.html")).code == 1
    page = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in page
    assert re.findall(r"<script|src=|href=|url\(|@import|https?:", page) == []
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert page.count("<article>") == 4


def test_options_and_margins_of_two_batches(olc: Olc, model: str, tmp_path: Path) -> None:
    """A real run: the journals beside the outputs tell that --repetition-penalty differs."""
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "The sky is", "logprobs": 5}) + "\n")
    outputs = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    for output, penalty in zip(outputs, ("1", "1.9"), strict=True):
        arguments = ("-n", "8", "--dtype", "float32", "--repetition-penalty", penalty)
        assert olc("batch", str(tmp_path / "in.jsonl"), "-o", output, "-m", model, *arguments).code == 0
    run = olc("diff", *outputs, "--json")
    row, last = map(json.loads, run.text.splitlines())
    assert (row["cause"], row["divergence"]["unit"]) == ("options", "token")
    assert row["divergence"]["a"]["margin"] > 0, "greedy: its own token is the likeliest"
    assert last["summary"]["changes"] == ["--repetition-penalty was 1.0, now 1.9"]
    assert olc("diff", outputs[0], outputs[0]).code == 0
