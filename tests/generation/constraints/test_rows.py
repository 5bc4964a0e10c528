"""Constrained rows in the decode loop: a model of random logits, greedy and sampled, alone and together."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from openllama_cli.errors import UsageError
from openllama_cli.generation.constraints.config import Constraint
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.text.completion import Completion
from openllama_cli.generation.text.stream import stream
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models import sentencepiece_models
from tests.support.models.fakes import FakeForward

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "legs": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
PATTERNS = (r" \d{4}", r"( [a-z]{1,4}){1,3}\.", r"[^\x00-\x7f]{1,3}", "yes|no")


@pytest.fixture(scope="module", params=["bpe-openllama-v2", "bpe-nmt_nfkc", "unigram-identity"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return open_tokenizer(
        sentencepiece_models.write(tmp_path_factory.mktemp("tokenizer"), sentencepiece_models.trained(request.param))
    )


def random_logits(vocabulary: int, tokens: Sequence[int]) -> torch.Tensor:
    """Logits that are a function of the tokens so far, for more ids than the tokenizer has."""
    return torch.randn(vocabulary + 16, generator=torch.Generator().manual_seed(hash(tuple(tokens)) % 2**40)) * 3


def complete(tokenizer: Tokenizer, requests: Iterable[Request], *, max_rows: int = 1) -> list[Completion]:
    forward = FakeForward(partial(random_logits, tokenizer.vocab_size), context=400)
    requests = list(requests)
    rows = {request.row: Completion(request.tokens) for request in requests}
    for step in stream(partial(decode_rows, forward, max_rows=max_rows), tokenizer, requests):
        rows[step.row].add(step)
    return [rows[row] for row in sorted(rows)]


def request(tokenizer: Tokenizer, row: int, prompt: str = "the cat", speculate: int = 0, **options: Any) -> Request:
    return Request(
        row, tokenizer.encode(prompt), SamplingConfig.from_given({"max_tokens": 200, **options}), speculate=speculate
    )


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_what_ends_by_itself_matches_and_what_is_cut_begins_a_match(tokenizer: Tokenizer, pattern: str) -> None:
    kinds: list[dict[str, Any]] = [{}, {"seed": 1}, {"temperature": 2.0, "seed": 2}, {"top_k": 3, "seed": 5}, {"max_tokens": 2}]
    requests = [request(tokenizer, row, ("the cat", "")[row % 2], regex=pattern, **kinds[row // 2]) for row in range(10)]
    for row in complete(tokenizer, requests, max_rows=3):
        if row.finish_reason == "length":
            assert Constraint("regex", pattern).begins(row.text.rstrip("\ufffd"))
        else:
            assert re.fullmatch(pattern, row.text)
            assert row.finish_reason in ("stop", "eos")


def test_documents_are_of_their_schema(tokenizer: Tokenizer) -> None:
    rows = complete(tokenizer, [request(tokenizer, row, json_schema=SCHEMA, seed=row) for row in range(6)], max_rows=6)
    for row in rows:
        assert row.finish_reason == "stop"  # Nothing can follow it.
        jsonschema.validate(json.loads(row.text), SCHEMA)


def test_other_rows_drafts_and_the_batch_size_change_nothing(tokenizer: Tokenizer) -> None:
    sets: list[dict[str, Any]] = [{}, *({"regex": pattern} for pattern in PATTERNS), {"json_schema": SCHEMA}]
    requests = [request(tokenizer, row, seed=7, max_tokens=40, **sets[row % 6]) for row in range(12)]
    alone = [complete(tokenizer, [one])[0] for one in requests]
    together = complete(tokenizer, requests, max_rows=5)
    drafted = complete(
        tokenizer, [request(tokenizer, row, seed=7, max_tokens=40, speculate=4, **sets[row % 6]) for row in range(12)]
    )
    for rows in (together, drafted):
        assert [(row.text, row.scored, row.finish_reason) for row in rows] == [
            (row.text, row.scored, row.finish_reason) for row in alone
        ]


def test_drafts_are_taken_where_the_text_repeats_itself(tokenizer: Tokenizer) -> None:
    options = {"regex": r"(abc,){20}", "prompt": "abc,abc,abc,abc,"}
    (plain,), (drafted,) = (
        complete(tokenizer, [request(tokenizer, 0, speculate=speculate, **options)]) for speculate in (0, 8)
    )
    assert plain.text == drafted.text == "abc," * 20
    assert plain.scored == drafted.scored


def test_a_banned_text_is_taken_back_from_a_match(tokenizer: Tokenizer) -> None:
    for seed in range(6):
        (row,) = complete(tokenizer, [request(tokenizer, 0, seed=seed, regex=r" (cat|dog|emu){3}\.", ban=["cat"])])
        assert re.fullmatch(r" (dog|emu){3}\.", row.text)


def test_the_match_ends_the_row_whatever_min_tokens_and_ignore_eos_say(tokenizer: Tokenizer) -> None:
    for options in ({"min_tokens": 50}, {"ignore_eos": True}):
        (row,) = complete(tokenizer, [request(tokenizer, 0, regex="yes|no", **options)])
        assert row.text in ("yes", "no")
        assert row.finish_reason == "stop"


def test_a_stop_string_ends_a_text_before_it_matches(tokenizer: Tokenizer) -> None:
    (row,) = complete(tokenizer, [request(tokenizer, 0, regex=r"a\|b", stop=["|"])])
    assert (row.text, row.finish_reason) == ("a", "stop")
    assert not Constraint("regex", r"a\|b").matches(row.text)


def test_a_stop_token_comes_only_where_the_text_matches(tokenizer: Tokenizer) -> None:
    ids = [token for token in range(tokenizer.vocab_size) if tokenizer.text(token) == "b"]
    for seed in range(4):
        (row,) = complete(tokenizer, [request(tokenizer, 0, regex="[ab]{3,9}", stop_token_ids=ids, seed=seed)])
        assert row.finish_reason in ("stop", "eos")
        assert re.fullmatch("a{3,9}b?", row.text)


def test_a_vocabulary_that_cannot_write_it_says_so(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(sentencepiece_models.write(tmp_path, sentencepiece_models.trained("bpe-no-byte-fallback")))
    steps = list(
        stream(partial(decode_rows, FakeForward(partial(random_logits, 500))), tokenizer, [request(tokenizer, 0, regex="ж")])
    )
    assert steps[-1].error is not None
    assert steps[-1].error.code == "no_token_left"


def test_a_tokenizer_that_cannot_is_an_error_of_the_row(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    from openllama_cli.generation.constraints import vocabulary

    monkeypatch.setattr(vocabulary, "_KNOWN", {})
    monkeypatch.setattr(tokenizer, "local", False)
    forward = FakeForward(partial(random_logits, tokenizer.vocab_size))
    requests = [request(tokenizer, 0, regex="a"), request(tokenizer, 1, max_tokens=3)]
    steps = list(stream(partial(decode_rows, forward, max_rows=2), tokenizer, requests))
    errors = {step.row: step.error.code for step in steps if step.error is not None}
    assert errors == {0: "constraint_tokenizer"}
    assert any(step.row == 1 and step.finish_reason for step in steps)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"regex": "a", "json_schema": {}}, "constraint_combined", "--regex cannot be combined with --json-schema"),
        ({"regex": "a", "heal": True}, "constraint_combined", "--regex cannot be combined with --heal"),
        ({"regex": "(?=a)"}, "constraint_invalid", "look-around"),
        ({"regex": 3}, "usage", "--regex is 3"),
        ({"json_schema": 3}, "usage", "--json-schema is 3"),
        ({"grammar": {"a": 1}}, "usage", "--grammar is {'a': 1}"),
    ],
)
def test_wrong_options_are_refused(given: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingConfig.from_given(given)
    assert caught.value.code == code
    assert words in caught.value.cause


def test_the_loop_guard_is_off_where_a_match_may_have_to_repeat_itself() -> None:
    assert SamplingConfig.from_given({}, guarded=True).loop_guard
    assert not SamplingConfig.from_given({"regex": "(ab){90}"}, guarded=True).loop_guard
    assert SamplingConfig.from_given({"regex": "(ab){90}", "loop_guard": True}, guarded=True).loop_guard
