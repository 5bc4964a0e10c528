"""The load benchmark counts right; how fast anything is, is not tested."""

import time

from openllama_cli.benchmark.serve import load, memory
from tests.support.serve.servers import Served


def test_the_benchmark_counts_what_it_sent(served: Served) -> None:
    before = len(served.entries)
    found = load(served.url, 3, 7, "x", words=10)
    while len(served.entries) < before + 7:
        time.sleep(0.01)  # A stream's entry comes after its last byte.
    sent = served.entries[before:]
    assert (found["clients"], found["requests"], found["failed"]) == (3, 7, 0)
    assert [entry.status for entry in sent] == [200] * 7
    assert all((entry.prompt_tokens or 0) > 10 for entry in sent)
    assert found["first_text_s"] > 0
    assert found["requests_per_s"] > 0


def test_a_refused_request_is_counted_as_failed(served: Served) -> None:
    assert load(served.url, 1, 2, "x", words=300)["failed"] == 2


def test_memory_is_read_twice(served: Served) -> None:
    found = memory(served.url, 6, base=3, words=5)
    assert found["requests"] == 6
    assert found["bytes_after_base"] > 0
    assert abs(found["growth"]) < 0.2
