"""Where lines, sentences and paragraphs end, however the text is cut into tokens."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.generation.text.boundaries import StopAt

# What is generated → the first complete sentence of it; None: none is known to be.
SENTENCES = [
    (" the blue whale. It is", " the blue whale."),
    (" the blue whale.", None),
    (" the blue whale. ", None),
    (" Dr. Smith came. Then he", " Dr. Smith came."),
    (" Mr. and Mrs. Lee left. Bye", " Mr. and Mrs. Lee left."),
    (" e.g. Apples are red. They", " e.g. Apples are red."),
    (" etc. The end", " etc."),
    (" J. R. R. Tolkien wrote it. He", " J. R. R. Tolkien wrote it."),
    (" the U.S. Army won. They", " the U.S. Army won."),
    (" It was I. He left", " It was I."),
    (" see Fig. 3 for it. No. It", " see Fig. 3 for it."),
    (" No. It is blue.", " No."),
    (" No. 5 is alive. It", " No. 5 is alive."),
    (" about 3.5 m. long. The next", " about 3.5 m. long."),
    (" see olc.dev. Then", " see olc.dev."),
    (" see olc.dev/a.b for it", None),
    ("\n1. First item. Second", "\n1. First item."),
    (" in 1990. The", " in 1990."),
    (' He said "Stop!" and left. She', ' He said "Stop!" and left.'),
    (' He said "Stop!" She left.', ' He said "Stop!"'),
    (' "What?" — he asked. Then', ' "What?" — he asked.'),
    (" (It ended.) Then", " (It ended.)"),
    (" “So it is.” “No", " “So it is.”"),
    (" **Bold.** Then", " **Bold.**"),
    (" Really?! Yes", " Really?!"),
    (" well... then go. Now", " well... then go."),
    (" well... Then go.", " well..."),
    (" and so … on. It", " and so … on."),
    ("彼は来た。次", "彼は来た。"),
    ("彼は「来た。」と言った。", "彼は「来た。」"),
    ("真的吗？他", "真的吗？"),
    ("वह आया। फिर", "वह आया।"),
    ("هل جاء؟ نعم", "هل جاء؟"),
    (" a heading\n\nText", " a heading"),
    (" end.\nNext", " end."),
    ("\n\n The first. The", "\n\n The first."),
    (". Then", "."),
    (" I am here", None),
]


def first(kind: Any, text: str, size: int, before: str = "") -> tuple[str, bool]:
    """What is shown of a text in pieces of a size, and whether something is complete."""
    found, shown = StopAt(kind, before), ""
    for start in range(0, len(text), size):
        more, complete = found.push(text[start : start + size])
        shown += more
        if complete:
            return shown, True
    return shown + found.held, False


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(("text", "sentence"), SENTENCES, ids=[text for text, _ in SENTENCES])
def test_sentences(text: str, sentence: str | None, size: int) -> None:
    assert first("sentence", text, size) == ((text, False) if sentence is None else (sentence, True))


def test_the_first_word_of_a_sentence_may_begin_in_the_prompt() -> None:
    assert first("sentence", ". Smith came. He", 1, before="I met Dr") == (". Smith came.", True)
    assert first("sentence", ". He came", 1, before="I went home") == (".", True)


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("kind", "text", "shown"),
    [
        ("line", " a\nb", " a"),
        ("line", "\n\n a \nc", "\n\n a "),
        ("line", " a\r\nb", " a"),
        ("line", " a", None),
        ("paragraph", "\n\na\nb\n\nc", "\n\na\nb"),
        ("paragraph", " a\nb\n \t\nc", " a\nb"),
        ("paragraph", " a\nb\n c\n", None),
    ],
)
def test_lines_and_paragraphs(kind: str, text: str, shown: str | None, size: int) -> None:
    assert first(kind, text, size) == ((text, False) if shown is None else (shown, True))


PIECES = st.lists(st.sampled_from(["a", "B", ". ", ".", "?", "! ", "\n", " ", '"', "。", "…", "Dr", "3", "\r\n", "(", ")"]))


@given(PIECES.map("".join), st.sampled_from(["line", "sentence", "paragraph"]))
def test_how_the_text_is_cut_makes_no_difference(text: str, kind: str) -> None:
    assert first(kind, text, 1) == first(kind, text, 3)
    # Nothing but the end is decided by what comes later: a longer text begins alike.
    shown, complete = first(kind, text, 1)
    if complete:
        assert first(kind, text + " More.", 2) == (shown, True)
