"""Which rows of two outputs differ, from where on, by which margin, and why; and what is no output."""

import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.output.formats import encode
from openllama_cli.compare.difference import Difference, Known, Summary, common_beginning, differences_of
from openllama_cli.compare.lines import open_lines
from openllama_cli.compare.surroundings import changes, surroundings
from openllama_cli.errors import UsageError


def row(index: int, text: str | None = " blue", **more: Any) -> dict[str, Any]:
    fields = {"custom_id": f"row-{index}", "index": index, "prompt": f"Sky {index} is", "text": text, "finish_reason": "length"}
    return fields | {"usage": None, "error": None} | more


def scored(*tokens: str, **top: float) -> dict[str, Any]:
    """Log-probabilities of tokens, -0.5 each; top: of others in the place of the last."""
    own = [-0.5] * len(tokens)
    alternatives: list[dict[str, float]] = [{token: -0.5} for token in tokens]
    alternatives[-1] |= top
    return {"tokens": list(tokens), "token_logprobs": own, "top_logprobs": alternatives, "text_offset": [0] * len(tokens)}


def openai(index: int, text: str, model: str = "demo") -> dict[str, Any]:
    body = {"model": model, "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}]}
    return {"id": f"batch_req_{index}", "custom_id": f"row-{index}", "response": {"body": body}, "error": None}


def written(path: Path, documents: list[Any]) -> Path:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def compared(folder: Path, a: Any, b: Any, known: Known = Known()) -> tuple[list[Difference], Summary]:  # noqa: B008
    """Of two lists of rows, or files."""
    sides = [side if isinstance(side, Path) else written(folder / f"{name}.jsonl", side) for name, side in (("a", a), ("b", b))]
    summary = Summary()
    with open_lines(sides[0]) as left, open_lines(sides[1]) as right:
        return list(differences_of(left, right, known, summary)), summary


def test_equal_outputs_have_no_differences(tmp_path: Path) -> None:
    rows = [row(index) for index in range(3)]
    found, summary = compared(tmp_path, rows, [dict(reversed(one.items())) for one in rows])
    assert (found, summary.equal, summary.different, summary.rows_a, summary.rows_b) == ([], 3, 0, 3, 3)


@pytest.mark.parametrize(
    ("a", "b", "known", "cause"),
    [
        (row(0), row(0, " gray"), Known(), "text"),
        (row(0), row(0, finish_reason="stop"), Known(), "text"),
        (row(0), row(0, " gray"), Known(model=True), "model"),
        (row(0), row(0, " gray"), Known(model=True, options=True), "options"),
        (row(0), row(0, " gray", prompt="Grass is"), Known(options=True), "prompt"),
        (row(0), row(0, prompt="Grass is"), Known(), "prompt"),
        (row(0), row(0, None, error={"code": "out_of_memory", "message": ""}), Known(model=True), "error"),
        (openai(0, " x", "a"), openai(0, " y", "b"), Known(), "model"),
        (row(0), openai(0, " gray"), Known(), "text"),
    ],
)
def test_the_cause_is_what_the_files_tell(tmp_path: Path, a: Any, b: Any, known: Known, cause: str) -> None:
    [found], summary = compared(tmp_path, [a], [b], known)
    assert (found.cause, summary.causes) == (cause, {cause: 1})


def test_the_first_token_that_differs_has_both_candidates_and_margins(tmp_path: Path) -> None:
    a = row(0, " so blue", logprobs=scored(" so", " blue", **{" gray": -1.75}))
    b = row(0, " so gray", logprobs=scored(" so", " gray", **{" blue": -0.75}))
    b["logprobs"]["token_logprobs"][0] = -0.375
    [found], summary = compared(tmp_path, [a], [b])
    assert found.divergence is not None
    assert found.divergence.document() == {
        "unit": "token",
        "index": 1,
        "a": {"text": " blue", "logprob": -0.5, "margin": 1.25},
        "b": {"text": " gray", "logprob": -0.5, "margin": 0.25},
    }
    assert summary.logprob_difference == 0.125
    assert found.common == len(" so ")


def test_a_text_that_ends_first_has_no_candidate(tmp_path: Path) -> None:
    pair = [[row(0, "".join(tokens), logprobs=scored(*tokens))] for tokens in ((" a",), (" a", " b"))]
    [found], _ = compared(tmp_path, *pair)
    assert found.divergence is not None
    assert (found.divergence.place, found.divergence.a) == (1, None)


def test_without_tokens_it_is_a_character(tmp_path: Path) -> None:
    [found], _ = compared(tmp_path, [row(0, "blau")], [row(0, "blue")])
    assert found.divergence is not None
    assert (found.divergence.unit, found.divergence.place) == ("character", 2)


def test_results_of_generate_differ_by_ids(tmp_path: Path) -> None:
    texts = {3: " x", 4: " y"}
    sides = [
        {"model": "demo", "completions": [{"prompt": "", "text": texts[last], "tokens": [1, last], "logprobs": [-1.0, -2.0]}]}
        for last in (3, 4)
    ]
    [found], _ = compared(tmp_path, [sides[0]], [sides[1]])
    assert found.divergence is not None
    assert found.divergence.document()["b"] == {"id": 4, "logprob": -2.0}


def test_rows_in_another_order_are_found_by_their_ids(tmp_path: Path) -> None:
    rows = [row(index, f" {index}") for index in range(50)]
    mixed = [row(index, " other" if index == 7 else f" {index}") for index in range(50)]
    random.Random(1).shuffle(mixed)
    found, summary = compared(tmp_path, rows, mixed)
    assert ([one.key for one in found], summary.equal) == (["row-7"], 49)


def test_rows_on_one_side_only_are_named(tmp_path: Path) -> None:
    found, summary = compared(tmp_path, [row(0), row(1), row(3)], [row(1), row(2), row(3), row(4)])
    assert [(one.key, one.cause) for one in found] == [("row-0", "only in A"), ("row-2", "only in B"), ("row-4", "only in B")]
    assert (summary.rows_a, summary.rows_b, summary.equal) == (3, 4, 2)
    found, _ = compared(tmp_path, [row(0), row(1)], [row(0)])
    assert [(one.key, one.cause) for one in found] == [("row-1", "only in A")]
    found, _ = compared(tmp_path, [], [row(0)])
    assert [one.cause for one in found] == ["only in B"]


def test_the_second_row_of_an_id_is_compared_with_the_second(tmp_path: Path) -> None:
    found, summary = compared(tmp_path, [row(0, "a"), row(0, "b"), row(1)], [row(1), row(0, "a"), row(0, "b")])
    assert (found, summary.equal) == ([], 3)


def test_choices_of_a_result_are_its_rows(tmp_path: Path) -> None:
    result = {"choices": [{"text": text, "finish_reason": "stop"} for text in "ab"]}
    found, summary = compared(tmp_path, [result, result], [row(index, text) for index, text in enumerate("abac")])
    assert [one.key for one in found] == ["row-0", "row-1", "row-2", "row-3"], "the reasons differ"
    assert summary.rows_a == 4


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_are_read_as_they_are_written(tmp_path: Path, suffix: str) -> None:
    rows = [row(0, ' "x",\n\ty'), row(1, ""), row(2, None, error={"code": "bad", "message": "m"}, finish_reason=None)]
    rows += [row(3, " so", logprobs=scored(" so"))]
    lines = [json.dumps(one).encode() for one in rows]
    table = tmp_path / f"rows{suffix}"
    table.write_bytes(b"".join(encode(table, lambda: lines)))
    found, summary = compared(tmp_path, rows, table)
    assert (found, summary.equal) == ([], 4)


def test_texts_and_documents_over_several_lines_are_read(tmp_path: Path) -> None:
    result = {"choices": [{"text": " x", "finish_reason": None}]}
    pretty, texts = tmp_path / "pretty.json", tmp_path / "rows.txt"
    pretty.write_text(json.dumps(result, indent=2))
    texts.write_text(" x\n")
    assert compared(tmp_path, pretty, texts)[0] == []


def test_stdin_is_read_once(tmp_path: Path) -> None:
    data = json.dumps(row(0)).encode()
    with open_lines(Path("-"), io.BytesIO(data)) as lines:
        assert [entry.key for entry, _, _ in lines.entries()] == ["row-0"]
        assert lines.name == "stdin"


@pytest.mark.parametrize(
    "data",
    [
        b"not json\n",
        b"[1]\n",
        b"1\n",
        b'{"a": 1}\n',
        b'{"custom_id": "a", "text": 3}\n',
        b'{"choices": [3]}\n',
        b'{"olc_journal": 1}\n',
        b"[" * 100_000,
        b"\xff\xfe\n",
        gzip.compress(b"{}", mtime=0),
        b'{"custom_id": "a", "text": "x"}\n{"custom_id"',
    ],
)
def test_what_is_no_output_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(data)
    with pytest.raises(UsageError) as problem:
        compared(tmp_path, path, [row(0)])
    assert problem.value.code == "diff_input"


class Unreadable(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read_is_not_a_difference() -> None:
    with (
        pytest.raises(UsageError, match="stdin cannot be read: Input/output error"),
        open_lines(Path("-"), Unreadable(b"{}\n")),
    ):
        pass


def test_numbers_that_are_none_tell_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    logprobs = '{"tokens": [" a"], "token_logprobs": [NaN], "top_logprobs": [{" a": Infinity, " b": NaN}]}'
    path.write_text(json.dumps(row(0, " a", logprobs=0)).replace('"logprobs": 0', f'"logprobs": {logprobs}'))
    [found], summary = compared(tmp_path, path, [row(0, " b", logprobs=scored(" b"))])
    assert found.divergence is not None
    assert found.divergence.document()["a"] == {"text": " a"}
    assert summary.logprob_difference is None


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e308", "1" + "0" * 4000, "true", '"-1"'])
def test_numbers_that_no_log_probability_can_be_tell_nothing(tmp_path: Path, number: str) -> None:
    path = tmp_path / "a.jsonl"
    logprobs = '{"tokens": [" a"], "token_logprobs": [?], "top_logprobs": [{" a": ?, " b": ?}]}'.replace("?", number)
    path.write_text(json.dumps(row(0, " a", logprobs=0)).replace('"logprobs": 0', f'"logprobs": {logprobs}'))
    [found], _ = compared(tmp_path, path, [row(0, " b", logprobs=scored(" b", **{" a": -3.0}))])
    assert found.divergence is not None
    assert found.divergence.document() == {
        "unit": "token",
        "index": 0,
        "a": {"text": " a"},
        "b": {"text": " b", "logprob": -0.5, "margin": 2.5},
    }
    assert compared(tmp_path, path, [row(0, " a", logprobs=scored(" a"))])[1].logprob_difference is None


def test_rows_that_were_scored_differ_by_their_scores(tmp_path: Path) -> None:
    scores = [
        [row(index, None, score={"logprob": value, "tokens": 3}) for index, value in enumerate(values)] for values in SCORES
    ]
    [found], summary = compared(tmp_path, *scores)
    assert (found.key, found.cause, summary.equal, summary.logprob_difference) == ("row-1", "text", 1, 0.5)
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, rows in zip(tables, scores, strict=True):
        path.write_bytes(b"".join(encode(path, lambda rows=rows: [json.dumps(one).encode() + b"\n" for one in rows])))  # type: ignore[misc]
    assert compared(tmp_path, *tables)[1].different == 1


SCORES = ([-4.0, -5.0], [-4.0, -5.5])


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [
        ("abc", "abd", 2),
        ("e\u0301x", "e\u0300x", 0),
        ("x\N{MAN}\u200d\N{WOMAN}", "x\N{MAN}\u200d\N{GIRL}", 1),
        ("x\N{MAN}", "x\N{MAN}\u200d\N{GIRL}", 1),
        ("", "a", 0),
    ],
)
def test_what_is_drawn_together_is_not_cut(a: str, b: str, common: int) -> None:
    assert common_beginning(a, b) == common


def test_what_both_files_tell_is_compared() -> None:
    a = {"model": {"revision": "1", "files": {}}, "options": {"seed": 1, "top_p": 1.0}, "versions": {"torch": "2.13"}}
    b = {"model": {"name": "x", "revision": "1"}, "options": {"seed": 2}, "versions": {"torch": "2.14"}}
    assert changes(a, b) == (Known(options=True), ["--seed was 1, now 2", "torch was 2.13, now 2.14"])
    assert changes({}, b) == (Known(), [])


def test_what_a_result_used_is_no_change_of_what_a_batch_left_open() -> None:
    result = {"options": {"dtype": "float16", "device": "cpu", "temperature": 0.0, "max_tokens": 6}, "versions": {}}
    batch = {"options": {"dtype": "auto", "device": "auto", "temperature": None, "max_tokens": 4}}
    assert changes(result, batch) == (Known(options=True), ["--max-tokens was 6, now 4"])
    assert changes(batch, {**result, "options": {**result["options"], "max_tokens": 4}}) == (Known(), [])


def test_other_adapters_are_another_model() -> None:
    sides = []
    for scale in (1.0, 0.5, None):
        adapters = [] if scale is None else [{"name": "poems", "scale": scale, "files": {}, "repo_id": None}]
        record = {"model": {"revision": None, "files": {}}, "adapters": [*adapters, 3, {"name": 7}]}
        sides.append(surroundings(Path("x.json"), {"olc": {"record": record}}))
    assert changes(sides[0], sides[0]) == (Known(), [])
    assert changes(sides[0], sides[1]) == (Known(model=True), ["--adapter was poems:1, now poems:0.5"])
    assert changes(sides[0], sides[2]) == (Known(model=True), ["--adapter was poems:1, now not given"])
