"""The figures of a run, by a clock that the test sets."""

import time
from typing import Any

import pytest

from openllama_cli.generation.decode.request import Scored
from openllama_cli.generation.text.completion import Timings
from openllama_cli.generation.text.stream import TextStep


def prefilled(row: int = 0, *prompt: Scored) -> TextStep:
    return TextStep(row, prefilled=True, prompt=prompt)


def token(row: int = 0) -> TextStep:
    return TextStep(row, scored=Scored(5))


ROWS = range(3)


@pytest.mark.parametrize(
    ("steps", "first", "prefill", "decode", "total"),
    [
        pytest.param([(2, prefilled()), (0, token()), *[(0.25, token())] * 4], 2, 50, 4, 6, id="one row"),
        # The prefills of later rows are neither decoding nor a faster prefill; then three rows take half a second a step.
        pytest.param(
            [
                *(step for row in ROWS for step in ((2, prefilled(row)), (0, token(row)))),
                *[(0.5, token(0)), (0, token(1)), (0, token(2))] * 5,
            ],
            *(2, 50, 6, 11.5),
            id="several rows",
        ),
        # As --engine transformers does: the prefill is told of before it runs.
        pytest.param([(0.001, prefilled()), (1.999, token())], 2, 50, None, 5, id="timed by the first token"),
        pytest.param([(1, prefilled()), (0, TextStep(0, finish_reason="length"))], None, None, None, 4, id="nothing ran"),
        pytest.param([(2, prefilled(0, Scored(1)))], None, 50, None, 5, id="only scored"),
    ],
)
def test_figures_are_of_what_ran(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[float, TextStep]], first: Any, prefill: Any, decode: Any, total: float
) -> None:
    """steps: seconds after the one before, and what happened. The prompt has 100 tokens; loading took 3 seconds."""
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    timings = Timings(3.0, 100, started=now)
    for seconds, step in steps:
        now += seconds
        timings.add(step)
    assert timings.as_dict() == {
        "load_s": 3.0,
        "time_to_first_token_s": first,
        "prefill_tokens_per_s": prefill,
        "decode_tokens_per_s": decode,
        "total_s": total,
    }
