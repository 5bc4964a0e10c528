"""Choices as tokens, against the tokenizers' own reading of prompt and choice as one text."""

from dataclasses import fields
from typing import Any

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.branches import branch, branch_neutral
from openllama_cli.generation.choices.config import MOST_CHOICES, Choices, out_of_place
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models import tokenizer_files
from tests.support.models.sentencepiece_models import train, write

PROMPTS = ("Q: What is it?\nA:", "Q: What is it?\nA: ", "the quick", "the qui", "", "最大の動物は", "ends in a line\n", "  x")
TEXTS = ("the fox", "fox", "fo", "dog!", "東京", "1", "10", "\tx")


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return open_tokenizer(write(tmp_path_factory.mktemp("sentencepiece"), train()))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return open_tokenizer(tokenizer_files.save(tmp_path_factory.mktemp("byte_level")))


@pytest.mark.parametrize("kind", ["sentencepiece", "byte_level"])
@pytest.mark.parametrize("prefix", [None, "", " ", "\n"], ids=repr)
@pytest.mark.parametrize("prompt", PROMPTS, ids=repr)
def test_prompt_and_branch_are_the_tokens_of_the_joint_text(
    kind: str, prompt: str, prefix: str | None, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    if tokenizer.bos_id is None and not prompt:
        with pytest.raises(UsageError):
            branch(tokenizer, prompt, Choices(TEXTS, prefix))
        return
    found = branch(tokenizer, prompt, Choices(TEXTS, prefix))
    between = prefix if prefix is not None else "" if prompt[-1:].isspace() or not prompt else " "
    joint = [tuple(tokenizer.encode(prompt + between + text)) for text in TEXTS]
    assert [found.prompt + own for own in found.branches] == joint
    assert all(found.branches)
    own = tokenizer.encode(prompt)
    assert found.prompt == tuple(own[: len(found.prompt)])
    # As much of the prompt as all have in common.
    rest = {tokens[len(found.prompt)] for tokens in joint} | set(own[len(found.prompt) :][:1])
    assert len(rest) > 1 or len(found.prompt) == min(map(len, joint)) - 1 or len(found.prompt) == len(own)


def test_a_space_at_the_prompts_end_is_part_of_the_choices(sentencepiece: Tokenizer) -> None:
    with_space, without = (branch(sentencepiece, f"the quick{end}", Choices(("fox", "dog"))) for end in (" ", ""))
    assert with_space == without


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        (("a", ""), "choices_empty"),
        (("a", "b", "a"), "choices_duplicate"),
        ((), "choices_count"),
        (("a",), "choices_count"),
        (tuple(map(str, range(MOST_CHOICES + 1))), "choices_count"),
    ],
)
def test_choices_that_are_none_are_refused(texts: tuple[str, ...], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        Choices(texts)
    assert caught.value.code == code


def test_choices_with_the_same_tokens_are_refused_by_name(sentencepiece: Tokenizer) -> None:
    # A normalizer makes one of the two.
    with pytest.raises(UsageError, match="'fox' and 'ｆｏｘ'") as caught:
        branch(sentencepiece, "the quick", Choices(("dog", "fox", "ｆｏｘ")))
    assert caught.value.code == "choices_duplicate"


def test_a_choice_without_a_token_of_its_own_is_refused(sentencepiece: Tokenizer) -> None:
    with pytest.raises(UsageError) as caught:
        branch(sentencepiece, "the quick", Choices(("fox", "\u200b"), prefix=""))
    assert caught.value.code == "choices_empty"


def test_without_bos_something_has_to_come_before_the_choices(byte_level: Tokenizer) -> None:
    tokenizer = byte_level
    assert tokenizer.bos_id is None
    with pytest.raises(UsageError) as caught:
        branch(tokenizer, "", Choices(("fox", "dog")))
    assert caught.value.code == "empty_prompt"
    with pytest.raises(UsageError) as caught:
        branch_neutral(tokenizer, Choices(("fox", "dog"), neutral=""))
    assert (caught.value.code, "--calibrate-with" in caught.value.remedy) == ("empty_prompt", True)
    assert branch_neutral(tokenizer, Choices(("fox", "dog"), neutral="the")) == branch(
        tokenizer, "the", Choices(("fox", "dog"))
    )
    assert branch_neutral(tokenizer, Choices(("fox", "dog"))) is None


def test_a_prompt_that_has_no_room_for_its_longest_choice_is_refused(sentencepiece: Tokenizer) -> None:
    choices = Choices(("fox", "the lazy dog"), neutral="the quick")
    found = branch(sentencepiece, "the quick", choices)
    longest = len(found.prompt) + max(map(len, found.branches))
    assert branch(sentencepiece, "the quick", choices, longest) == found == branch_neutral(sentencepiece, choices, longest)
    for made in (
        lambda: branch(sentencepiece, "the quick", choices, longest - 1),
        lambda: branch_neutral(sentencepiece, choices, 2),
    ):
        with pytest.raises(UsageError) as caught:
            made()
        assert caught.value.code == "context_length_exceeded"


def test_a_prompt_that_is_too_long_is_not_read_once_for_every_choice(sentencepiece: Tokenizer, monkeypatch: Any) -> None:
    encode, read = sentencepiece.encode, []
    monkeypatch.setattr(sentencepiece, "encode", lambda text: (read.append(len(text)), encode(text))[1])
    with pytest.raises(UsageError):
        branch(sentencepiece, "the quick fox " * 100, Choices(tuple(map(str, range(1000)))), 64)
    assert len(read) == 2


@pytest.mark.parametrize("given", [{"texts": ("a", "\ud800")}, {"prefix": "\udcff"}, {"neutral": "\udcff"}], ids=str)
def test_what_is_no_text_is_refused_before_a_model_is_looked_for(given: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Choices(**{"texts": ("a", "b"), **given})
    assert caught.value.code == "invalid_unicode"


def test_every_sampling_option_says_nothing_beside_choices() -> None:
    for option in fields(SamplingConfig):
        assert out_of_place({option.name: object()}) == option.name
    defaults = {option.name: getattr(SamplingConfig(), option.name) for option in fields(SamplingConfig)}
    unsaid = ("logit_bias", "max_tokens", "dry_sequence_breakers")
    assert (
        out_of_place(
            {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items() if name not in unsaid}
        )
        is None
    )
