"""The figures of a run, by a clock that the test sets."""

import time

import pytest

from openllama_cli.generation.decode.loop import Scored
from openllama_cli.generation.text.completion import Timings
from openllama_cli.generation.text.stream import TextStep


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def after(self, seconds: float, timings: Timings, step: TextStep) -> None:
        self.now += seconds
        timings.add(step)


def token(row: int) -> TextStep:
    return TextStep(row, scored=Scored(5))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_one_row(clock: Clock) -> None:
    timings = Timings(3.0, 100, started=clock.now)
    clock.after(2.0, timings, TextStep(0, prefilled=True))
    clock.after(0.0, timings, token(0))
    for _ in range(4):
        clock.after(0.25, timings, token(0))
    assert timings.as_dict() == {
        "load_s": 3.0,
        "time_to_first_token_s": 2.0,
        "prefill_tokens_per_s": 50.0,
        "decode_tokens_per_s": 4.0,
        "total_s": 6.0,
    }


def test_the_prefills_of_later_rows_are_neither_decoding_nor_a_faster_prefill(clock: Clock) -> None:
    timings = Timings(0.0, 100, started=clock.now)
    for row in range(3):
        clock.after(2.0, timings, TextStep(row, prefilled=True))
        clock.after(0.0, timings, token(row))
    for _ in range(5):  # three rows side by side, half a second a step
        clock.after(0.5, timings, token(0))
        clock.after(0.0, timings, token(1))
        clock.after(0.0, timings, token(2))
    figures = timings.as_dict()
    assert figures["time_to_first_token_s"] == 2.0
    assert figures["prefill_tokens_per_s"] == 50.0
    assert figures["decode_tokens_per_s"] == 6.0


def test_a_prefill_that_is_told_of_before_it_runs_is_timed_by_its_first_token(clock: Clock) -> None:
    # As --engine transformers does.
    timings = Timings(0.0, 100, started=clock.now)
    clock.after(0.001, timings, TextStep(0, prefilled=True))
    clock.after(1.999, timings, token(0))
    assert timings.as_dict()["prefill_tokens_per_s"] == 50.0


def test_what_did_not_run_has_no_figure(clock: Clock) -> None:
    timings = Timings(1.0, 100, started=clock.now)
    clock.after(0.001, timings, TextStep(0, prefilled=True))
    clock.after(0.0, timings, TextStep(0, finish_reason="length"))
    figures = timings.as_dict()
    assert figures["prefill_tokens_per_s"] is None
    assert figures["decode_tokens_per_s"] is None
    assert figures["time_to_first_token_s"] is None


def test_a_prompt_that_is_only_scored_was_prefilled(clock: Clock) -> None:
    timings = Timings(0.0, 100, started=clock.now)
    clock.after(2.0, timings, TextStep(0, prefilled=True, prompt=(Scored(1),)))
    assert timings.as_dict()["prefill_tokens_per_s"] == 50.0
