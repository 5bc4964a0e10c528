"""Streamed text: joined it is the decoded whole, whatever the script, and no character comes in halves."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.request import GO_ON
from openllama_cli.generation.text.incremental import IncrementalDecoder
from openllama_cli.generation.text.row_text import RowText
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer

SAMPLES = st.sampled_from(
    [
        "The quick  brown",
        " fox\n\tjumps",
        "größte",
        "सबसे बड़ा जानवर",
        "最大の動物は",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "a\u0301é",
        "�",
        "\x00\x1b[0m",
        " ",
        "  ",
        "ab",
    ]
)
TEXTS = st.one_of(st.text(max_size=20), st.lists(SAMPLES, max_size=5).map("".join))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return open_tokenizer(tiny_model)


@settings(max_examples=100)
@given(prompt=TEXTS, text=TEXTS)
def test_streamed_text_joins_to_the_decoded_whole(tokenizer: Tokenizer, prompt: str, text: str) -> None:
    ids = tokenizer.encode(prompt + text)
    for cut in {1, len(ids) // 2, len(ids)} - {0}:
        decoder = IncrementalDecoder(tokenizer, ids[:cut])
        pieces = [decoder.push(token) for token in ids[cut:]] + [decoder.held]
        start = tokenizer.decode(ids[: cut - tokenizer.unfinished(ids[:cut])])
        assert start + "".join(pieces) == tokenizer.decode(ids)


@given(st.data())
def test_any_token_ids_stream_to_what_they_decode_to(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(3, tokenizer.vocab_size - 1), max_size=30))
    decoder = IncrementalDecoder(tokenizer, [1])
    assert "".join([decoder.push(token) for token in ids] + [decoder.held]) == tokenizer.decode([1, *ids])


def test_characters_of_several_bytes_come_whole(tokenizer: Tokenizer) -> None:
    text = "largest 🐋 動物"
    ids = tokenizer.encode(text)
    assert any(tokenizer.piece(token).startswith("<0x") for token in ids)
    decoder = IncrementalDecoder(tokenizer, ids[:1])
    pieces = [decoder.push(token) for token in ids[1:]]
    assert "�" not in "".join(pieces)
    assert "" in pieces
    assert "".join(pieces) == text


def test_bytes_that_never_become_a_character_are_shown_at_the_end(tokenizer: Tokenizer) -> None:
    stream = RowText(tokenizer, [1], SamplingConfig(stop=()))
    first = next(token for token in range(tokenizer.vocab_size) if tokenizer.piece(token) == "<0xE6>")
    assert stream.watch(first) == GO_ON
    assert stream.pop_text() == ""
    stream.close()
    assert stream.pop_text() == "�"


def test_a_stop_string_of_half_characters_is_found_across_tokens(tokenizer: Tokenizer) -> None:
    stream = RowText(tokenizer, [1], SamplingConfig(stop=("動物",)))
    ids = tokenizer.encode("the 動物 Q", bos=False)
    ended = [stream.watch(token).reason for token in ids[: ids.index(tokenizer.encode("物", bos=False)[-1]) + 1]]
    assert ended[-1] == "stop"
    assert not any(ended[:-1])
    stream.close()
    assert stream.pop_rest() == "the "


def test_text_held_back_for_a_stop_string_appears_when_the_row_ends(tokenizer: Tokenizer) -> None:
    stream = RowText(tokenizer, [1], SamplingConfig(stop=("lazy dogs",)))
    text = ""
    for token in tokenizer.encode("the lazy dog", bos=False):
        assert stream.watch(token) == GO_ON
        text += stream.pop_text()
    assert text == "the "
    stream.close()
    assert stream.pop_rest() == "lazy dog"
