"""Rows between the engine and the journal: annotated together, kept once, and no row held for long."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.results import MOST_ROWS, MOST_SECONDS, Result, Results


class Kept(Journal):
    """A journal in memory."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), 0)
        self.kept: dict[int, tuple[str | None, bytes]] = {}

    def append(self, index: int, code: str | None, line: bytes) -> None:
        assert index not in self.kept
        self.kept[index] = (code, line)

    def document(self, index: int) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.kept[index][1])
        return loaded


def lengths(texts: list[str]) -> list[dict[str, Any]]:
    return [{"length": len(text)} for text in texts]


def into(annotate: Callable[[list[str]], list[dict[str, Any]]] | None) -> tuple[Results, Kept]:
    kept = Kept()
    return Results(kept, annotate), kept


def row(text: str, index: int = 0) -> Result:
    return Result(index, None, {"custom_id": "a", "text": text, "usage": None, "error": None})


def test_without_annotations_a_row_is_kept_at_once() -> None:
    results, kept = into(None)
    results.append(row("é"))
    assert kept.kept[0] == (None, '{"custom_id": "a", "text": "é", "usage": null, "error": null}'.encode())


def test_rows_wait_until_there_are_enough_and_keep_everything_else() -> None:
    calls: list[int] = []
    results, kept = into(lambda texts: calls.append(len(texts)) or lengths(texts))  # type: ignore[func-returns-value]
    for index in range(MOST_ROWS + 3):
        results.append(row("🐋" * index, index))
    assert calls == [MOST_ROWS]
    assert len(kept.kept) == MOST_ROWS
    results.flush()
    results.flush()
    assert calls == [MOST_ROWS, 3]
    document = kept.document(34)
    assert list(document)[-1] == "annotations"
    assert document.pop("annotations") == {"length": 34}
    assert document == row("🐋" * 34).document


def test_a_row_waits_no_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    results, kept = into(lengths)
    results.flush_if_due()
    results.append(row("x"))
    results.flush_if_due()
    assert not kept.kept
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + MOST_SECONDS)
    results.flush_if_due()
    assert list(kept.kept) == [0]


def test_failed_rows_are_kept_at_once_without_annotations() -> None:
    results, kept = into(lengths)
    results.append(row("x"))
    results.append(Result(1, "invalid_json", {"text": None, "error": {"code": "invalid_json", "message": "no"}}))
    assert list(kept.kept) == [1]
    assert kept.kept[1][0] == "invalid_json"
    assert kept.document(1)["annotations"] is None


def test_openai_rows_are_annotated_beside_their_response() -> None:
    results, kept = into(lengths)
    response = {"status_code": 200, "body": {"choices": [{"text": "four"}]}}
    document = {"id": "b", "custom_id": "a", "response": response, "error": None}
    results.append(Result(0, None, document))
    results.flush()
    assert kept.document(0) == document | {"annotations": {"length": 4}}


def test_numbers_and_lone_surrogates_come_through_as_they_were() -> None:
    results, kept = into(lambda texts: [{} for _ in texts])
    result = Result(0, None, {"text": "x", "prompt": "\udcff", "logprobs": [-0.1, -1e-07, 1.0, -3.4028235e38]})
    results.append(result)
    results.flush()
    assert kept.kept[0][1] == result.line()[:-1] + b', "annotations": {}}'
