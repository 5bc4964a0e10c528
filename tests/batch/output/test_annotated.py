"""Rows between the engine and the journal: annotated together, kept once, and no row held for long."""

import json
import time
from typing import Any

import pytest

from openllama_cli.batch.output.annotated import MOST_ROWS, MOST_SECONDS, AnnotatedResults
from openllama_cli.batch.output.lines import to_line


class Kept:
    """A journal in memory."""

    def __init__(self) -> None:
        self.lines: dict[int, tuple[str | None, bytes]] = {}

    def append(self, index: int, code: str | None, line: bytes) -> None:
        assert index not in self.lines
        self.lines[index] = (code, line)

    def document(self, index: int) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.lines[index][1])
        return loaded


def lengths(texts: list[str]) -> list[dict[str, Any]]:
    return [{"length": len(text)} for text in texts]


def row(text: str) -> bytes:
    return to_line({"custom_id": "a", "text": text, "usage": None, "error": None})


def test_rows_wait_until_there_are_enough_and_keep_everything_else() -> None:
    kept = Kept()
    calls: list[int] = []

    def count(texts: list[str]) -> list[dict[str, Any]]:
        calls.append(len(texts))
        return lengths(texts)

    results = AnnotatedResults(kept, count)
    for index in range(MOST_ROWS + 3):
        results.append(index, None, row("🐋" * index))
    assert calls == [MOST_ROWS]
    assert len(kept.lines) == MOST_ROWS
    results.flush()
    results.flush()
    assert calls == [MOST_ROWS, 3]
    document = kept.document(34)
    assert document.pop("annotations") == {"length": 34}
    assert to_line(document) == row("🐋" * 34)
    assert list(kept.document(0))[-1] == "annotations"


def test_a_row_waits_no_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    results = AnnotatedResults(kept, lengths)
    results.flush_if_due()
    results.append(0, None, row("x"))
    results.flush_if_due()
    assert not kept.lines
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + MOST_SECONDS)
    results.flush_if_due()
    assert list(kept.lines) == [0]


def test_failed_rows_are_kept_at_once_without_annotations() -> None:
    kept = Kept()
    results = AnnotatedResults(kept, lengths)
    results.append(0, None, row("x"))
    results.append(1, "invalid_json", to_line({"text": None, "error": {"code": "invalid_json", "message": "no"}}))
    assert list(kept.lines) == [1]
    assert kept.lines[1][0] == "invalid_json"
    assert kept.document(1)["annotations"] is None


def test_openai_rows_are_annotated_beside_their_response() -> None:
    kept = Kept()
    results = AnnotatedResults(kept, lengths)
    response = {"status_code": 200, "body": {"choices": [{"text": "four"}]}}
    results.append(0, None, to_line({"id": "b", "custom_id": "a", "response": response, "error": None}))
    results.flush()
    assert kept.document(0) == {
        "id": "b",
        "custom_id": "a",
        "response": response,
        "error": None,
        "annotations": {"length": 4},
    }


def test_numbers_and_lone_surrogates_come_through_as_they_were() -> None:
    kept = Kept()
    results = AnnotatedResults(kept, lambda texts: [{} for _ in texts])
    line = to_line({"text": "x", "prompt": "\udcff", "logprobs": [-0.1, -1e-07, 1.0, -3.4028235e38]})
    results.append(0, None, line)
    results.flush()
    assert kept.lines[0][1] == line[:-1] + b', "annotations": {}}'
