"""Whose row comes next, who is turned away, and who is told, without a model."""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from openllama_cli.errors import GenerationError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.text.stream import TextStep
from openllama_cli.serve.errors import ApiError
from openllama_cli.serve.scheduler import Job, Scheduler


def job(count: int, told: list[Any] | None = None) -> Job:
    rows = [Request(row, [1], SamplingConfig()) for row in range(count)]
    return Job(rows, (told if told is not None else []).append)


def taken(requests: Iterator[Request | None], count: int) -> list[Request]:
    """The next rows."""
    found: list[Request] = []
    while len(found) < count:
        row = next(requests)
        found += [row] if row is not None else []
    return found


def test_jobs_take_turns() -> None:
    """A request of one row does not wait behind all rows of a large one."""
    scheduler, told = Scheduler(), [[], [], []]
    for size, steps in zip((4, 1, 2), told, strict=True):
        scheduler.submit(job(size, steps))
    rows = taken(scheduler.requests(), 7)
    for row in rows:
        scheduler.deliver(TextStep(row.row, finish_reason="length"))
    assert [row.draws_as for row in rows] == [0, 0, 0, 1, 1, 2, 3]
    assert [[step.row for step in steps] for steps in told] == [[0, 1, 2, 3], [0], [0, 1]]
    assert scheduler.active == scheduler.waiting == 0


def test_a_full_queue_turns_a_request_away_as_a_whole() -> None:
    scheduler = Scheduler(most_waiting=5)
    scheduler.submit(job(3))
    with pytest.raises(ApiError) as refused:
        scheduler.submit(job(3))
    assert (refused.value.status, refused.value.code, refused.value.headers["retry-after"]) == (503, "overloaded", "5")
    scheduler.submit(job(2))
    assert scheduler.waiting == 5


def test_a_canceled_job_frees_its_places_and_hears_no_more() -> None:
    scheduler, told = Scheduler(most_waiting=3), []
    canceled = job(3, told)
    scheduler.submit(canceled)
    requests = scheduler.requests()
    (row,) = taken(requests, 1)
    scheduler.cancel(canceled)
    assert row.canceled is not None
    assert row.canceled()
    assert scheduler.waiting == 0
    scheduler.deliver(TextStep(row.row, text="late"))
    scheduler.deliver(TextStep(row.row, finish_reason="stop"))
    assert told == []
    scheduler.submit(job(3))
    assert len(taken(requests, 3)) == 3


def test_a_job_that_is_canceled_while_it_waits_is_forgotten() -> None:
    """Its prompts, which may be megabytes, do not wait for a place in a full house."""
    scheduler = Scheduler()
    scheduler.submit(job(1))
    gone, kept = job(2), job(2)
    scheduler.submit(gone)
    scheduler.submit(kept)
    seen = weakref.ref(gone)
    scheduler.cancel(gone)
    scheduler.cancel(gone)
    del gone
    assert seen() is None
    assert scheduler.waiting == 3


def test_a_loop_that_broke_ends_its_rows_and_the_next_one_takes_the_rest() -> None:
    scheduler, told = Scheduler(), []
    scheduler.submit(job(2, told))
    taken(scheduler.requests(), 1)
    scheduler.fail(lambda row: TextStep(row, finish_reason="stop"))
    assert [step.row for step in told] == [0]
    (row,) = taken(scheduler.requests(), 1)
    assert row.draws_as == 1


def test_an_end_cancels_all_and_takes_no_more() -> None:
    scheduler = Scheduler()
    scheduler.submit(job(2))
    requests = scheduler.requests()
    (row,) = taken(requests, 1)
    scheduler.close()
    assert row.canceled is not None
    assert row.canceled()
    scheduler.deliver(TextStep(row.row, finish_reason="stop"))
    assert [row for row in requests if row is not None] == []
    with pytest.raises(ApiError, match="ending"):
        scheduler.submit(job(1))


def test_what_is_given_up_at_the_end_hears_of_it_once() -> None:
    scheduler, running, waiting, left = Scheduler(), [], [], job(1)
    scheduler.submit(job(2, running))
    taken(scheduler.requests(), 2)
    scheduler.submit(job(2, waiting))
    scheduler.submit(left)
    scheduler.cancel(left)
    error = GenerationError("the server is ending", "send it to another one", code="shutting_down")
    scheduler.close(lambda row: TextStep(row, error=error))
    assert [step.error for step in running] == [step.error for step in waiting] == [error]
