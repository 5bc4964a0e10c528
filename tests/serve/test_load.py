"""The load benchmark counts right; how fast anything is, is not tested."""

import json
from typing import Any

import pytest

from openllama_cli.benchmark.serve import load, memory
from tests.support.serve.completions import CompletionsServer, Handler
from tests.support.serve.servers import Served


def test_the_benchmark_counts_what_it_sent(served: Served) -> None:
    before = len(served.logged())
    found = load(served.url, 3, 7, "x", words=10)
    sent = served.logged()[before:]
    assert (found["clients"], found["requests"], found["failed"]) == (3, 7, 0)
    assert [entry.status for entry in sent] == [200] * 7
    assert all((entry.prompt_tokens or 0) > 10 for entry in sent)
    assert found["first_text_s"] > 0
    assert found["tokens"] == sum(entry.completion_tokens or 0 for entry in sent) > 0
    assert found["requests_per_s"] > 0


def test_a_refused_request_is_counted_as_failed(served: Served) -> None:
    assert load(served.url, 1, 2, "x", words=300)["failed"] == 2


CHUNKS: list[dict[str, Any]] = [{"choices": [{"text": text}]} for text in ("", "a b", "c")]
USAGE: dict[str, Any] = {"choices": [], "usage": {"completion_tokens": 5}}


@pytest.mark.parametrize(("chunks", "tokens"), [([*CHUNKS, USAGE], 5), ([*CHUNKS, {"choices": [], "usage": None}], 2)])
def test_tokens_are_those_of_the_usage_else_chunks_with_text(chunks: list[dict[str, Any]], tokens: int) -> None:
    def answer(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        assert body["stream_options"] == {"include_usage": True}
        handler.reply(200, b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks))

    with CompletionsServer(answer) as server:
        assert load(server.url, 1, 3, "base")["tokens"] == 3 * tokens


def test_what_breaks_a_client_is_a_failed_request() -> None:
    def cut(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        handler.cut()

    def broken(handler: Handler, body: dict[str, Any], attempt: int) -> None:
        handler.reply(200, b"data: {not JSON\n\n")

    for act in (cut, broken):
        with CompletionsServer(act) as server:
            assert load(server.url, 2, 4, "base")["failed"] == 4


def test_memory_is_read_twice(served: Served) -> None:
    found = memory(served.url, 6, base=3, words=5)
    assert found["requests"] == 6
    assert found["bytes_after_base"] > 0
    assert abs(found["growth"]) < 0.2
