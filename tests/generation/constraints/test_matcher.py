"""Matchers over many vocabularies: what random tokens that they allow print, against Python's `re` and `json`."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.constraints.config import Constraint
from openllama_cli.generation.constraints.matcher import Matcher
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models import sentencepiece_models, tokenizer_files

# Each takes few tokens, whatever is drawn.
PATTERNS = (
    r" \d{4}",
    r"\d{1,3}(,\d{3}){0,2}",
    r" ?(the|cat|日本|größte){1,4}\.?",
    r"[^\x00-\x7f]{1,3}",
    r"(?i)yes|no",
    r"  (a| b){2,5}",
    r"[ab\n]{0,6}",
    r"",
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["the", "日本", "é"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
GRAMMAR = """
start: term (" + " term)~0..2
term: NUMBER | "(" start ")"
NUMBER: /[0-9]{1,3}/
"""
BYTE_FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]


def sentencepiece(folder: Path, name: str) -> Tokenizer:
    return open_tokenizer(sentencepiece_models.write(folder / name, sentencepiece_models.trained(name)))


def json_tokenizer(folder: Path, name: str) -> Tokenizer:
    from tokenizers import decoders, models

    if name == "byte-level":
        parts = [tokenizer_files.part("decoder", decoders.ByteLevel())]
    else:
        pieces = ["<unk>", "<s>", "</s>", *BYTE_FALLBACK, "▁", "▁the", "the", "1", "20", "日"]
        llama = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        bpe = models.BPE({piece: number for number, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
        parts = [tokenizer_files.model(bpe), tokenizer_files.part("decoder", decoders.Sequence(llama))]
    return open_tokenizer(tokenizer_files.save(folder / name, *parts))


@pytest.fixture(scope="module", params=[*sentencepiece_models.VARIANTS, "byte-level", "byte-fallback"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizers")
    make = sentencepiece if request.param in sentencepiece_models.VARIANTS else json_tokenizer
    return make(folder, request.param)


def spelled(tokenizer: Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """What olc prints after a prompt."""
    return tokenizer.decode_continuation(prompt, ids)


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    """With text and without, with visible text and without."""
    given = [tokenizer.encode(text) for text in ("", "the cat", "  ", "a\n")]
    return [ids or tokenizer.encode("the") for ids in given]


def walk(matcher: Matcher, chance: random.Random, vocabulary: int) -> list[int] | None:
    """Random tokens until the match is complete and no more may come, or an end was drawn; None where no token may come."""
    ids: list[int] = []
    while not matcher.finished:
        allowed = matcher.mask(vocabulary).nonzero().flatten().tolist()
        if not allowed:
            return None
        token = chance.choice(allowed)
        if token in END:
            assert matcher.can_end
            break
        matcher.push(token)
        ids.append(token)
    return ids


END = frozenset({2})


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_what_is_printed_matches_the_regular_expression(tokenizer: Tokenizer, pattern: str) -> None:
    constraint, chance = Constraint("regex", pattern), random.Random(pattern)
    ended = 0
    for _ in range(4):
        for prompt in prompts(tokenizer):
            ids = walk(Matcher(constraint, tokenizer, prompt, END), chance, tokenizer.vocab_size)
            if ids is not None:
                text = spelled(tokenizer, prompt, ids)
                assert re.fullmatch(pattern, text), (text, [tokenizer.piece(token) for token in ids])
                assert constraint.matches(text)
                ended += 1
    # Without byte fallback a vocabulary may be unable to write something.
    assert ended or "no-byte-fallback" in str(tokenizer.path.parent)


def test_what_is_printed_matches_the_schema(tokenizer: Tokenizer) -> None:
    constraint, chance = Constraint("json_schema", json.dumps(SCHEMA)), random.Random(3)
    for prompt in prompts(tokenizer):
        ids = walk(Matcher(constraint, tokenizer, prompt, END), chance, tokenizer.vocab_size)
        if ids is not None:
            document = json.loads(spelled(tokenizer, prompt, ids))
            jsonschema.validate(document, SCHEMA)
            assert list(document) == list(SCHEMA["properties"])  # type: ignore[call-overload]
        else:
            assert "no-byte-fallback" in str(tokenizer.path.parent)


def test_what_is_printed_matches_the_grammar(tokenizer: Tokenizer) -> None:
    constraint, chance = Constraint("grammar", GRAMMAR), random.Random(4)
    for prompt in prompts(tokenizer):
        matcher = Matcher(constraint, tokenizer, prompt, END)
        for _ in range(60):  # It may nest without end.
            allowed = matcher.mask(tokenizer.vocab_size).nonzero().flatten().tolist()
            if not allowed or matcher.finished:
                break
            token = 2 if 2 in allowed else chance.choice(allowed)
            matcher.push(token)
            if token == 2:
                break
        assert matcher.can_end or "no-byte-fallback" in str(tokenizer.path.parent) or not matcher.finished


@pytest.mark.parametrize("pattern", [r" \d{4}", "[^\x00-\x7f]{1,3}"])
def test_the_mask_is_that_of_all_tokens_tried_one_by_one(tokenizer: Tokenizer, pattern: str) -> None:
    constraint = Constraint("regex", pattern)
    for prompt in prompts(tokenizer)[:2]:
        mask = Matcher(constraint, tokenizer, prompt, END).mask(tokenizer.vocab_size).numpy()
        texts = [spelled(tokenizer, prompt, [token]) for token in range(tokenizer.vocab_size)]
        whole = [token for token, text in enumerate(texts) if text and "\ufffd" not in text]
        silent = tokenizer.special_ids | {tokenizer.unk_id}
        wanted = [constraint.begins(texts[token]) and token not in silent for token in whole]
        np.testing.assert_array_equal(mask[whole], wanted)


def test_tokens_are_taken_back(tokenizer: Tokenizer) -> None:
    constraint, prompt = Constraint("regex", r" ?(the|cat|日本){1,6}\.?"), prompts(tokenizer)[1]
    chance = random.Random(5)
    matcher = Matcher(constraint, tokenizer, prompt, END)
    masks: list[Any] = [matcher.mask(tokenizer.vocab_size)]
    for _ in range(60):
        allowed = [token for token in masks[-1].nonzero().flatten().tolist() if token not in END]
        if allowed and chance.random() < 0.6:
            matcher.push(chance.choice(allowed))
            masks.append(matcher.mask(tokenizer.vocab_size))
        elif len(masks) > 1:
            count = chance.randrange(1, len(masks))
            matcher.take_back(count)
            del masks[-count:]
        assert matcher.mask(tokenizer.vocab_size).equal(masks[-1])


def test_the_end_is_taken_back(tokenizer: Tokenizer) -> None:
    matcher = Matcher(Constraint("regex", "a*"), tokenizer, prompts(tokenizer)[1], END)
    before = matcher.mask(tokenizer.vocab_size)
    assert before[2]
    matcher.push(2)
    matcher.take_back(1)
    assert matcher.mask(tokenizer.vocab_size).equal(before)


def test_rows_of_an_embedding_without_tokens_are_never_allowed(tokenizer: Tokenizer) -> None:
    matcher = Matcher(Constraint("regex", "(?s).*"), tokenizer, prompts(tokenizer)[1], END)
    assert not matcher.mask(tokenizer.vocab_size + 64)[tokenizer.vocab_size :].any()
    assert len(matcher.mask(7)) == 7


def test_a_character_that_the_prompt_begins_is_part_of_the_text(tmp_path: Path) -> None:
    tokenizer = json_tokenizer(tmp_path, "byte-fallback")
    first, *rest = tokenizer.encode("é", bos=False)
    prompt = [tokenizer.encode("x", bos=False)[0], first]
    matcher = Matcher(Constraint("regex", "é!"), tokenizer, prompt, END)
    assert matcher.mask(tokenizer.vocab_size).nonzero().flatten().tolist() == rest
    other = Matcher(Constraint("regex", "a!"), tokenizer, prompt, END)
    assert not other.mask(tokenizer.vocab_size).any()


def test_a_tokenizer_that_rewrites_texts_is_refused(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path, "bpe-openllama-v2")
    tokenizer.local = False
    with pytest.raises(UsageError) as caught:
        Matcher(Constraint("regex", "a"), tokenizer, [1], END)
    assert caught.value.code == "constraint_tokenizer"
