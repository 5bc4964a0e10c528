"""The decode loop's bookkeeping, on a model with known logits."""

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import Request, Scored, decode_rows
from openllama_cli.generation.forward.cache import KVCache
from tests.support.models.fakes import FakeForward, counting, uniform


@dataclass
class Row:
    tokens: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)
    reason: str | None = None
    error: str | None = None


def run(forward: FakeForward, requests: Iterable[Request], max_rows: int = 16) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for event in decode_rows(forward, requests, max_rows=max_rows):
        row = rows.setdefault(event.row, Row())
        assert row.reason is None, "an event after the row's last"
        assert row.error is None, "an event after the row's last"
        if event.prefilled:
            continue
        if event.scored is not None:
            row.tokens.append(event.scored.token)
            row.scored.append(event.scored)
        row.reason = event.finish_reason
        row.error = event.error.code if event.error else None
    assert all(row.reason or row.error for row in rows.values())
    return rows


def request(prompt: Sequence[int], row: int = 0, **options: object) -> Request:
    names = ("eos", "watch", "draws_as")
    request_options = {name: options.pop(name) for name in names if name in options}
    return Request(row, prompt, SamplingConfig(**options), **request_options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "options", "tokens", "reason", "passes"),
    [
        pytest.param([3], {"max_tokens": 4}, [4, 5, 6, 7], "length", (1, 3), id="max tokens"),
        pytest.param([3], {"max_tokens": 0}, [], "length", (0, 0), id="no tokens, nothing runs"),
        pytest.param([3], {"max_tokens": 1}, [4], "length", (1, 0), id="one token, no decode step"),
        pytest.param([1], {"eos": frozenset({2})}, [2], "eos", (1, 0), id="EOS as the first token"),
        pytest.param([1], {"eos": frozenset({9, 4})}, [2, 3, 4], "eos", (1, 2), id="any of several EOS ids"),
        pytest.param([2, 5], {"eos": frozenset({2}), "max_tokens": 2}, [6, 7], "length", (1, 1), id="EOS in the prompt"),
    ],
)
def test_where_a_row_ends(prompt: list[int], options: Any, tokens: list[int], reason: str, passes: tuple[int, int]) -> None:
    forward = FakeForward(counting())
    row = run(forward, [request(prompt, **options)])[0]
    assert (row.tokens, row.reason) == (tokens, reason)
    assert (len(forward.prefilled), len(forward.decoded_rows)) == passes


def test_the_watcher_ends_the_row_and_is_not_told_of_eos() -> None:
    told: list[int] = []

    def watch(token: int) -> bool:
        told.append(token)
        return token == 6

    assert run(FakeForward(counting()), [request([3], watch=watch)])[0].reason == "stop"
    assert told == [4, 5, 6]
    told.clear()
    assert run(FakeForward(counting()), [request([3], watch=watch, eos=frozenset({5}))])[0].reason == "eos"
    assert told == [4]


@pytest.mark.parametrize(("length", "taken", "reason"), [(8, [], "context"), (7, [8], "context"), (6, [7, 8], "length")])
def test_a_row_ends_where_the_context_ends(length: int, taken: list[int], reason: str) -> None:
    forward = FakeForward(counting(), context=8)
    row = run(forward, [request(range(1, length + 1), max_tokens=2)])[0]
    assert (row.tokens, row.reason) == (taken, reason)


@pytest.mark.parametrize(("prompt", "code"), [([], "empty_prompt"), (range(9), "context_length_exceeded")])
def test_a_prompt_that_cannot_run_is_that_rows_error(prompt: Sequence[int], code: str) -> None:
    rows = run(FakeForward(counting(), context=8), [request(prompt), request([1], row=1, max_tokens=1)])
    assert rows[0].error == code
    assert rows[1].tokens == [2]


def test_non_finite_logits_fail_their_row_and_spare_its_neighbors() -> None:
    def next_logits(tokens: Sequence[int]) -> torch.Tensor:
        logits = counting()(tokens)
        return logits / 0 if tokens[0] == 9 and len(tokens) > 2 else logits

    rows = run(FakeForward(next_logits), [request([3], 0, max_tokens=3), request([9], 1), request([5], 2, max_tokens=3)])
    assert rows[1].error == "non_finite_logits"
    assert (rows[0].tokens, rows[2].tokens) == ([4, 5, 6], [6, 7, 8])


def test_rows_join_as_places_become_free_and_make_what_each_makes_alone() -> None:
    forward = FakeForward(counting())
    lengths, eos = [2, 5, 3, 0, 1, 4, 9], frozenset({13})
    requests = [request([row] * (row + 1), row, max_tokens=length, eos=eos) for row, length in enumerate(lengths, start=1)]
    rows = run(forward, requests, max_rows=2)
    # What each makes alone; the last ends by EOS.
    alone = [list(range(row + 1, min(row + length, 13) + 1)) for row, length in enumerate(lengths, start=1)]
    assert [rows[row].tokens for row in range(1, 8)] == alone
    assert max(forward.decoded_rows) == 2
    # The first token of each row comes with its prompt.
    assert sum(forward.decoded_rows) == sum(len(tokens) - 1 for tokens in alone if tokens)


def test_requests_are_read_only_as_places_become_free() -> None:
    read: list[int] = []

    def requests() -> Iterable[Request]:
        for row in range(100):
            read.append(row)
            yield request([1], row, max_tokens=5)

    events = decode_rows(FakeForward(counting()), requests(), max_rows=3)
    next(events)
    assert len(read) == 1
    for event in events:
        if event.finish_reason:
            break
    assert len(read) <= 4


def test_draws_depend_on_seed_and_row_alone_or_another_row_that_is_named() -> None:
    def tokens(order: Sequence[int], max_rows: int, seed: int = 5, **options: object) -> dict[int, list[int]]:
        requests = [request([1], row, max_tokens=12, temperature=1.0, seed=seed, **options) for row in order]
        return {row: result.tokens for row, result in run(FakeForward(uniform()), requests, max_rows).items()}

    together = tokens(range(16), 16)
    assert tokens(range(16), 1) == together
    assert tokens(range(15, -1, -1), 5) == together
    assert tokens([7], 16)[7] == together[7]
    assert len({tuple(row) for row in together.values()}) == 16
    assert tokens([7], 16, seed=6)[7] != together[7]
    assert tokens([9], 16, draws_as=0)[9] == together[0]


def test_rows_of_different_settings_run_side_by_side() -> None:
    requests = [
        request([1], 0, max_tokens=3),
        request([1], 1, max_tokens=5, temperature=0.7, top_k=1),
        request([1], 2, max_tokens=4, repetition_penalty=1e9),
    ]
    rows = run(FakeForward(counting()), requests)
    assert rows[0].tokens == [2, 3, 4]
    assert rows[1].tokens == [2, 3, 4, 5, 6]
    assert len(rows[2].tokens) == 4


def test_logprobs_and_alternatives_are_of_the_untempered_distribution() -> None:
    row = run(FakeForward(counting(4)), [request([0], max_tokens=1, temperature=0.1, seed=1, logprobs=2)])[0]
    expected = torch.tensor([0.0, 5.0, 0.0, 0.0]).log_softmax(-1)
    scored = row.scored[0]
    assert scored.token == 1
    assert scored.logprob == pytest.approx(float(expected[1]))
    assert scored.top[0] == (1, pytest.approx(float(expected[1])))
    assert scored.top[1][1] == pytest.approx(float(expected[0]))
    assert scored.entropy == pytest.approx(float(-(expected.exp() * expected).sum() / torch.log(torch.tensor(2.0))))


@pytest.mark.parametrize("max_rows", [1, 3])
def test_the_cache_of_a_row_that_ended_is_gone_before_the_next_one_gets_its_own(max_rows: int) -> None:
    living: weakref.WeakSet[KVCache] = weakref.WeakSet()
    most = 0

    class Watching(FakeForward):
        def new_cache(self, capacity: int) -> KVCache:
            nonlocal most
            cache = super().new_cache(capacity)
            living.add(cache)
            most = max(most, len(living))
            return cache

    # Some end while others go on, some with their first token, some at once.
    requests = [Request(row, [1, 2], SamplingConfig(max_tokens=(4, 4, 4, 1, 0, 6)[row % 6])) for row in range(30)]
    for event in decode_rows(Watching(counting()), requests, max_rows=max_rows):
        assert event.error is None
    assert most == max_rows
