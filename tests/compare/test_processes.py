"""Large outputs, compared by several processes: the same differences as in one, whatever the rows are."""

import json
import multiprocessing
import multiprocessing.connection
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.compare import processes
from openllama_cli.compare.difference import Difference, Known, Summary, differences_of
from openllama_cli.compare.lines import Lines, open_lines
from openllama_cli.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one process compares")
Compare = Callable[[Lines, Lines, Known, Summary], Iterator[Difference]]


@pytest.fixture(autouse=True)
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LARGE", 0)
    monkeypatch.setattr(processes, "_AT_A_TIME", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})


@pytest.fixture
def regular(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What processes said of the rows, in order."""
    said: list[bool] = []
    asked = processes._all_regular

    def told(*arguments: Any) -> bool:
        said.append(asked(*arguments))
        return said[-1]

    monkeypatch.setattr(processes, "_all_regular", told)
    return said


def outcome(compare: Compare, a: Path, b: Path) -> tuple[list[object], object]:
    """All that is told of two files: of each row that differs, and the summary, or the error that ends it."""
    summary, found = Summary(), list[object]()
    with open_lines(a) as left, open_lines(b) as right:
        try:
            for one in compare(left, right, Known(), summary):
                sides = [
                    None if side is None else (side.key, side.prompt, side.text, side.finish_reason, side.error, side.score)
                    for side in (one.a, one.b)
                ]
                found.append((one.key, one.cause, one.divergence, one.common, sides))
        except UsageError as problem:
            return found, (problem.code, str(problem))
    return found, summary.document()


def logprobs(tokens: list[str], chance: random.Random) -> dict[str, Any]:
    own: list[float | None] = [chance.choice([-0.5, -1.25e-05, -chance.random(), None]) for _ in tokens]
    top = [{token: -0.5, chance.choice(["}, {", '"', "\n", "NaN", " b"]): -chance.random()} for token in tokens]
    return {"tokens": tokens, "token_logprobs": own, "top_logprobs": top, "text_offset": list(range(len(tokens)))}


def row(index: int, chance: random.Random) -> dict[str, Any]:
    tokens = [chance.choice([" a", " b", "\u00e9", '"', "}, {", "\n"]) for _ in range(chance.randrange(4))]
    told = {"text": "".join(tokens), "finish_reason": "stop", "logprobs": logprobs(tokens, chance)}
    first = {"custom_id": chance.choice(["row-{}", "\u00e9{}", 'a"{}', "x [{}]"]).format(index), "prompt": "p", **told}
    if index % 5 == 0:
        body = {"model": "demo", "choices": [told, told]}
        return {"id": 'i "custom_id": "no"', "custom_id": first["custom_id"], "response": {"body": body}, "error": None}
    return first | ({"samples": [told, told]} if index % 7 == 0 else {}) | {"error": None}


def changed(rows: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    """Some rows missing, some made anew, in another order at times."""
    kept = [one for one in rows if chance.random() < 0.95]
    for place, one in enumerate(kept):
        if chance.random() < 0.3:
            again = row(place, chance)
            kept[place] = again | {"custom_id": one["custom_id"]}
    if chance.random() < 0.5:
        chance.shuffle(kept)
    return kept


def written(path: Path, rows: list[dict[str, Any]], chance: random.Random) -> Path:
    ends = chance.choice(["\n", "\r\n", "\n \n"])
    text = ends.join(json.dumps(one, ensure_ascii=chance.random() < 0.5) for one in rows)
    path.write_bytes(chance.choice([b"", b"\xef\xbb\xbf"]) + text.encode() + chance.choice([b"", b"\n"]))
    return path


@pytest.mark.parametrize("seed", range(20))
def test_several_processes_find_what_one_finds(tmp_path: Path, regular: list[bool], seed: int) -> None:
    chance = random.Random(seed)
    rows = [row(index, chance) for index in range(30)]
    a = written(tmp_path / "a.jsonl", rows, chance)
    b = written(tmp_path / "b.jsonl", changed(rows, chance), chance)
    assert outcome(processes.differences, a, b) == outcome(differences_of, a, b)
    assert regular == [True]


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id": "row-1", "text": "again", "prompt": "p"}',
        b'{"text": "x", "custom_id": 1.5}',
        b'{"text": "x", "custom_id": "a", "custom_id": "b"}',
        b'{"choices": [{"text": "x"}], "custom_id": "row-3"}',
        b'{"choices": []}',
        b'{"custom_id": "a", "text": 3}',
        b'{"custom_id": "a", "text": "x"',
        b'{"custom_id": "a\xff", "text": "x"}',
        b"3",
    ],
)
def test_rows_that_need_all_others_and_lines_that_are_none_are_left_to_one(
    tmp_path: Path, regular: list[bool], line: bytes
) -> None:
    """A second row of an id, which is only in B; ids that the line does not show; results; damage."""
    rows = [b'{"custom_id": "row-%d", "text": "x%d", "prompt": "p"}' % (index, index) for index in range(9)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(rows))
    (tmp_path / "b.jsonl").write_bytes(b"\n".join([*rows[5:], line, b'{"custom_id": "row-1", "text": "y"}']))
    sides = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert outcome(processes.differences, *sides) == outcome(differences_of, *sides)
    assert regular == [False]


def test_a_process_that_dies_costs_time_only(tmp_path: Path, regular: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in sides:
        path.write_text(json.dumps({"custom_id": "a", "text": path.name}))
    monkeypatch.setattr(processes, "_write", lambda *arguments: os._exit(9))
    found, _ = outcome(processes.differences, *sides)
    assert (len(found), regular) == (1, [False])


def test_no_process_outlives_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"custom_id": "a", "text": "x"}))

    def interrupted(sentinels: list[int]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(multiprocessing.connection, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        outcome(processes.differences, path, path)
    assert multiprocessing.active_children() == []
