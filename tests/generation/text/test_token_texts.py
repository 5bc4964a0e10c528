"""Tokens of a result as OpenAI writes them: their texts, where each starts, and the alternatives in its place."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from openllama_cli.generation.decode.request import Scored
from openllama_cli.generation.text.completion import Completion, alternatives, logprobs_object
from openllama_cli.generation.text.offsets import token_offsets
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models.sentencepiece_models import trained, write


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """A byte-level one, where tokens of two bytes end one character and begin the next, and one with byte fallback."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    # The last byte of one character with the first of the next: 日本 in UTF-8 is e6 97 a5 e6 9c ac.
    pairs = [("Ġ", "b"), ("Ġb", "y"), ("¥", "æ")]
    library = Library(models.BPE(vocab=letters | {"".join(pair): 256 + n for n, pair in enumerate(pairs)}, merges=pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("byte-level")
    library.save(str(folder / "tokenizer.json"))
    fallback = write(tmp_path_factory.mktemp("fallback"), trained("bpe-openllama-v2"))
    return {"byte-level": open_tokenizer(folder), "fallback": open_tokenizer(fallback)}


def test_tokens_are_texts_and_bytes_of_characters(tokenizers: dict[str, Tokenizer]) -> None:
    level, fallback = tokenizers["byte-level"], tokenizers["fallback"]
    assert [level.text(token) for token in level.encode(" by日本\n")] == [
        *(" by", r"bytes:\xe6", r"bytes:\x97", r"bytes:\xa5\xe6", r"bytes:\x9c", r"bytes:\xac", "\n"),
    ]
    assert [fallback.text(token) for token in fallback.encode("the ☃\n")] == [
        *("<s>", " the", " ", r"bytes:\xe2", r"bytes:\x98", r"bytes:\x83", "\n"),
    ]


@pytest.mark.parametrize(("kind", "text", "parts"), [
    ("byte-level", " by日本!", [" by", "", "", "日", "", "本", "!"]),
    ("fallback", "the☃!", ["", "the", "", "", "☃", "!"]),
])  # fmt: skip
def test_offsets_cut_the_text_where_the_tokens_do(
    tokenizers: dict[str, Tokenizer], kind: str, text: str, parts: list[str]
) -> None:
    tokenizer = tokenizers[kind]
    assert cut(tokenizer, tokenizer.encode(text)) == parts
    # Without its last byte no character comes about.
    begun = tokenizer.encode("日", bos=False)[:2] if kind == "byte-level" else tokenizer.encode("☃", bos=False)[-3:-1]
    marks = cut(tokenizer, [*begun, tokenizer.encode("a", bos=False)[-1]])
    assert "".join(marks[:-1]) == tokenizer.decode(begun)
    assert marks[0].startswith("\ufffd")


@given(data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", ["byte-level", "fallback"])
def test_any_tokens_cut_their_text(tokenizers: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=12))
    assert "".join(cut(tokenizer, ids)) == tokenizer.decode(ids)
    for token, part in zip(ids, cut(tokenizer, ids), strict=True):
        data_ = tokenizer.token_bytes(token)
        if data_ is not None and data_.isascii():
            assert part.endswith(data_.decode()), "a token of whole characters has its own text"


def cut(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    text, offsets = tokenizer.decode(ids), token_offsets(tokenizer, (), ids)
    return [text[start:end] for start, end in zip(offsets, [*offsets[1:], len(text)], strict=True)]


def test_the_token_taken_is_among_the_alternatives(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte-level"]
    a, b, c = (tokenizer.encode(letter)[0] for letter in "abc")
    assert alternatives(tokenizer, Scored(c, -5.0, ((a, -1.0), (b, -2.0)))) == {"a": -1.0, "b": -2.0, "c": -5.0}
    assert list(alternatives(tokenizer, Scored(b, -2.0, ((a, -1.0), (b, -2.0))))) == ["a", "b"]
    assert alternatives(tokenizer, Scored(c, -5.0)) == {"c": -5.0}
    assert alternatives(tokenizer, Scored(a, -1.0, ((a, -1.0), (9999, -2.0)))) == {"a": -1.0, "token 9999": -2.0}
    # Two ids with one text are told apart, and the one taken has it.
    fallback = tokenizers["fallback"]
    byte, letter = (next(i for i in range(3, 420) if fallback.piece(i) == piece) for piece in ("<0x61>", "a"))
    assert set(alternatives(fallback, Scored(letter, -1.0, ((letter, -1.0), (byte, -3.0))))) == {"a", f"token {byte}"}


def test_openai_logprobs_of_half_characters(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte-level"]
    ids = tokenizer.encode("日a")
    completion = Completion(tokenizer.encode("x"), "日a", [Scored(token, -1.0) for token in ids], finish_reason="length")
    found = logprobs_object(completion, tokenizer, echo=None)
    assert found["text_offset"] == [0, 0, 0, 1]
    assert json.loads(json.dumps(found))["tokens"] == [r"bytes:\xe6", r"bytes:\x97", r"bytes:\xa5", "a"]
