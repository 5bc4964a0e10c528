"""When a row counts as being in a loop."""

import random

import pytest

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.repetition import LEAST_TIMES, LEAST_TOKENS, LONGEST_PERIOD, LoopGuard
from openllama_cli.generation.decode.request import Request
from tests.support.models.fakes import FakeForward, counting, token_rows


def tokens_until_loop(tokens: list[int]) -> int | None:
    guard = LoopGuard()
    return next((place for place, token in enumerate(tokens, start=1) if guard.push(token)), None)


@pytest.mark.parametrize("period", [1, 2, 7, 40, LONGEST_PERIOD])
def test_a_period_is_a_loop_once_it_stands_there_often_enough(period: int) -> None:
    before, cycle = [900, 901, 902], list(range(period))
    least = max(LEAST_TIMES * period, LEAST_TOKENS)
    assert tokens_until_loop(before + cycle * 300) == len(before) + least


def test_what_does_not_repeat_exactly_is_no_loop() -> None:
    chance = random.Random(1)
    assert tokens_until_loop([chance.randrange(3) for _ in range(3000)]) is None
    # A list whose lines differ in one token.
    assert tokens_until_loop([token for line in range(300) for token in (1, 2, 3, 100 + line, 4)]) is None
    assert tokens_until_loop(list(range(LONGEST_PERIOD + 1)) * 2 * LEAST_TIMES) is None


def test_tokens_that_are_taken_back_do_not_count() -> None:
    guard = LoopGuard()
    for token in [5] * (LEAST_TOKENS - 1):
        assert not guard.push(token)
    guard.take_back(2)
    assert not guard.push(5)
    assert not guard.push(5)
    assert guard.push(5)


def test_a_guarded_row_ends_and_its_text_until_then_is_unchanged() -> None:
    def run(**options: object) -> tuple[list[int], str | None]:
        config = SamplingConfig(max_tokens=2 * LEAST_TOKENS, **options)  # type: ignore[arg-type]
        steps = list(decode_rows(FakeForward(counting(), context=1000), [Request(0, [3], config)]))
        return token_rows(steps)[0], steps[-1].finish_reason

    all_tokens, reason = run()
    assert (len(all_tokens), reason) == (2 * LEAST_TOKENS, "length")
    # Sixteen tokens in a circle.
    assert run(loop_guard=True) == (all_tokens[: max(LEAST_TOKENS, 16 * LEAST_TIMES)], "repetition")
