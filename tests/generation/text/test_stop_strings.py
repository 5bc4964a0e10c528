"""Stop strings: where they end the text, and what may be shown before that."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.generation.text.incremental import StopStrings


def feed(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    matcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        text, finished = matcher.push(piece)
        shown += text
        if finished:
            return shown, True
    return shown + matcher.held, False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["\nQ:"], ["A: yes\n", "Q", ": more"], ("A: yes", True)),
        (["112"], ["1", "1", "1", "2"], ("1", True)),
        (["abab!"], ["ababab!"], ("ab", True)),
        (["abc", "b"], ["ab"], ("a", True)),
        (["aab", "ab"], ["a", "a", "b"], ("", True)),
        (["xyz"], ["xy"], ("xy", False)),
        (["END"], ["the EN", "ding"], ("the ENding", False)),
        (["日本"], ["日", "曜日", "本"], ("日曜", True)),
        ([], ["anything"], ("anything", False)),
    ],
)
def test_text_ends_before_the_stop_string(stops: list[str], pieces: list[str], expected: tuple[str, bool]) -> None:
    assert feed(stops, pieces) == expected


def test_text_that_may_become_a_stop_string_waits_and_nothing_more() -> None:
    matcher = StopStrings(["\n\n"])
    assert matcher.push("one\n") == ("one", False)
    assert matcher.push("two") == ("\ntwo", False)


def naive(stops: Sequence[str], text: str) -> tuple[str, bool]:
    """The stop string that is complete first; of those, the one that starts first."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(st.lists(st.text("ab1", min_size=1, max_size=5), max_size=4), st.lists(st.text("ab1", max_size=4), max_size=12))
def test_any_cut_of_the_text_gives_what_a_search_of_the_whole_gives(stops: list[str], pieces: list[str]) -> None:
    """What was shown is never taken back: `feed` only appends."""
    assert feed(stops, pieces) == naive(stops, "".join(pieces))
