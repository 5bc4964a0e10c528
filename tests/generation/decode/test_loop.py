"""The decode loop's bookkeeping, on a model with known logits."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from openllama_cli.generation.decode import active_row, loop
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.request import GO_ON, Request, Scored, Verdict
from openllama_cli.generation.forward.cache import KVCache, PrefixCache
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

    def watch(token: int) -> Verdict:
        told.append(token)
        return Verdict("stop" if token == 6 else None)

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


def test_requests_may_come_while_others_run() -> None:
    """None says that none is waiting now: the rows in flight go on by a step, and those that come join them."""
    forward = FakeForward(counting())

    def requests() -> Iterator[Request | None]:
        yield request([1], row=0, max_tokens=4)
        yield None
        yield None
        yield request([5], row=1, max_tokens=2)
        yield None
        while forward.decoded_rows != [1, 1, 2]:
            yield None  # Also while no row is active.
        yield None
        yield request([9], row=2, max_tokens=1)

    rows = run(forward, requests())
    assert {row: rows[row].tokens for row in rows} == {0: [2, 3, 4, 5], 1: [6, 7], 2: [10]}
    assert forward.decoded_rows == [1, 1, 2]


def test_a_canceled_row_leaves_before_the_next_step() -> None:
    forward, left = FakeForward(counting()), []
    requests = [
        Request(0, [1], SamplingConfig(max_tokens=9), canceled=lambda: bool(left)),
        Request(1, [1], SamplingConfig(max_tokens=4)),
    ]
    codes = []
    for step in decode_rows(forward, requests):
        codes.append((step.row, step.error.code if step.error else step.finish_reason))
        if step.row == 0 and step.scored is not None and step.scored.token == 3:
            left.append(True)
    assert (0, "canceled") in codes
    assert codes[-1] == (1, "length")
    assert forward.decoded_rows == [2, 1, 1]


class Small(FakeForward):
    """A model whose memory has room for some positions, and runs out in one decode step as well."""

    def __init__(self, room: int, failing_step: int | None = None) -> None:
        super().__init__(counting())
        self.room, self.failing_step = room, failing_step
        self.caches: weakref.WeakSet[KVCache] = weakref.WeakSet()

    def new_cache(self, capacity: int) -> KVCache:
        if sum(cache.capacity for cache in self.caches) + capacity > self.room:
            raise torch.OutOfMemoryError("no room")
        cache = super().new_cache(capacity)
        self.caches.add(cache)
        return cache

    def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
        if len(self.decoded_rows) == self.failing_step:
            self.failing_step = None
            logits = super().decode(tokens, caches)
            del logits
            raise torch.OutOfMemoryError("no room")
        return super().decode(tokens, caches)


def shed(forward: FakeForward, requests: Iterable[Request], **options: Any) -> dict[int, list[Any]]:
    rows: dict[int, list[Any]] = {}
    for step in decode_rows(forward, requests, shed=True, **options):
        if not step.prefilled:
            found = step.scored.token if step.scored is not None else step.error.code if step.error is not None else None
            rows.setdefault(step.row, []).append(found)
    return rows


def test_a_row_that_does_not_fit_ends_with_an_error_and_the_others_go_on() -> None:
    requests = [request([1] * length, row=row, max_tokens=3) for row, length in enumerate((4, 40, 4))]
    assert shed(Small(20), requests) == {0: [2, 3, 4], 1: ["out_of_memory"], 2: [2, 3, 4]}


def test_known_prefixes_make_room_before_a_row_is_turned_away() -> None:
    prefixes = PrefixCache()
    forward = Small(70)
    first, second = ([tokens] * 64 for tokens in (1, 2))
    forward.context = 128
    rows = shed(forward, [request(first, row=0, max_tokens=1)], prefixes=prefixes)
    rows |= shed(forward, [request(second, row=1, max_tokens=1)], prefixes=prefixes)
    assert rows == {0: [2], 1: [3]}


def test_memory_that_runs_out_in_a_step_costs_the_youngest_row_alone() -> None:
    requests = [request([start], row=row, max_tokens=4) for row, start in enumerate((1, 5, 9))]
    rows = shed(Small(100, failing_step=1), requests)
    assert rows == {0: [2, 3, 4, 5], 1: [6, 7, 8, 9], 2: [10, 11, "out_of_memory"]}


@pytest.mark.parametrize("failing", ["prefill", "score"])
def test_the_watcher_is_told_once_of_a_token_whose_scores_had_no_room_at_first(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the text would have the token twice."""
    told: list[int] = []
    module = loop if failing == "prefill" else active_row
    works, calls = getattr(module, failing), iter((True, False))

    def fails_first(*arguments: Any) -> Any:
        if next(calls, False):
            raise torch.OutOfMemoryError("no room")
        return works(*arguments)

    monkeypatch.setattr(module, failing, fails_first)
    options = {"max_tokens": 2, "logprobs": 0, "watch": lambda token: told.append(token) or GO_ON}
    rows = shed(FakeForward(counting()), [replace(request([1, 2], **options), score=failing == "prefill")])
    assert rows == {0: [3, 4]}
    assert told == [3, 4]


@pytest.mark.parametrize("max_tokens", [0, 2])
def test_a_prompt_whose_scores_are_no_numbers_ends_with_an_error(max_tokens: int) -> None:
    """Also where no token is drawn, and where only a position in its middle is broken."""

    def broken(tokens: Sequence[int]) -> torch.Tensor:
        return torch.full((16,), torch.nan) if len(tokens) == 2 else counting()(tokens)

    rows = run(
        FakeForward(broken),
        [replace(request([1, 2, 3], max_tokens=max_tokens), score=True), request([3, 4, 5], row=1, max_tokens=2)],
    )
    assert rows[0].error == "non_finite_logits"
    assert rows[1].reason == "length"


def test_other_failures_are_raised() -> None:
    class Broken(FakeForward):
        def decode(self, tokens: Sequence[int], caches: Sequence[KVCache]) -> torch.Tensor:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        shed(Broken(counting()), [request([1])])
