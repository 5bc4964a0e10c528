"""Cutting a text that is longer than a pipeline takes: where, and never within a character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.annotation.annotate import cut

_TEXTS = st.text(alphabet=st.sampled_from("ab .!?。।\n\r\t🐋👩\u200d🏽\u0301\u093e🇩🇪日"), max_size=300)


@given(_TEXTS, st.integers(1, 40))
def test_the_pieces_are_the_text_and_none_is_too_long(text: str, most: int) -> None:
    pieces = list(cut(text, most))
    assert "".join(part for _, part in pieces) == text
    assert [start for start, _ in pieces] == [sum(len(part) for _, part in pieces[:n]) for n in range(len(pieces))]
    assert all(0 < len(part) <= most for _, part in pieces) or text == ""


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("", 5, [""]),
        ("One. Two.", 9, ["One. Two."]),
        ("One two. Three four. Five", 22, ["One two. Three four. ", "Five"]),
        ("aaa bbb. ccc\n\nddd eee", 16, ["aaa bbb. ccc\n\n", "ddd eee"]),
        ("一番大きい。動物は何", 8, ["一番大きい。", "動物は何"]),
        ("बड़ा जानवर है। वह बड़ा", 18, ["बड़ा जानवर है। ", "वह बड़ा"]),
        ("aaaa bbbb cccc", 12, ["aaaa bbbb ", "cccc"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
    ],
)
def test_cuts_are_at_paragraphs_then_sentences_then_spaces(text: str, most: int, expected: list[str]) -> None:
    assert [part for _, part in cut(text, most)] == expected


def test_characters_are_not_torn_from_their_marks_and_whitespace_is_not_cut_in_two() -> None:
    for whole in ("👩🏽", "👨\u200d👩\u200d👧", "e\u0301\u0301", "🇩🇪", "\r\n", "ड़ा", "⚠\ufe0f"):
        text = "x" * 14 + whole + "y" * 14
        for most in range(14, 14 + len(whole)):
            assert next(cut(text, most))[1] == "x" * 14
    text = "a" * 10 + " " * 4 + "b" * 30
    assert {next(cut(text, most))[1] for most in range(10, 18)} <= {"a" * 10, "a" * 10 + " " * 4}
