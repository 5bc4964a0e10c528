"""Texts of options as ids: biased tokens, breakers of DRY."""

from pathlib import Path

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.text.token_ids import breaker_ids, following_ids, resolve
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return open_tokenizer(tiny_model)


def test_a_text_is_the_token_that_it_is_behind_other_text(tokenizer: Tokenizer) -> None:
    with_space, without = (tokenizer.encode(text, bos=False)[-1] for text in ("x the", "\nthe"))
    assert following_ids(tokenizer, " the") == [with_space]
    assert tokenizer.decode_continuation(tokenizer.encode("x"), following_ids(tokenizer, "the")) == "the"
    found = resolve(SamplingConfig(logit_bias=((with_space + 1, 2.0), (" the", -1.0))), tokenizer, tokenizer.vocab_size)
    assert dict(found.logit_bias) == {with_space: -1.0, with_space + 1: 2.0}
    assert without != with_space


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"logit_bias": {"the largest animal": 1}}, "not_one_token", r"--logit-bias 'the largest animal' is \d+ tokens: "),
        (
            {"logit_bias": {"999999": 1}},
            "token_id_out_of_range",
            "--logit-bias has token id 999999, and the model's ids are 0 to",
        ),
        ({"stop_token_ids": [999999]}, "token_id_out_of_range", "--stop-token has token id 999999"),
    ],
)
def test_what_the_model_has_no_token_for(options: dict[str, object], code: str, said: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        resolve(SamplingConfig.from_given(options), tokenizer, tokenizer.vocab_size)
    assert caught.value.code == code


def test_breakers_are_all_tokens_that_contain_one(tokenizer: Tokenizer) -> None:
    found = breaker_ids(tokenizer, ("\n", "a"))
    prefix = tokenizer.encode("x")
    texts = {token: tokenizer.decode_continuation(prefix, [token]) for token in range(tokenizer.vocab_size)}
    assert found == {token for token, text in texts.items() if "\n" in text or "a" in text}
    assert breaker_ids(tokenizer, ("\n",)) < found
