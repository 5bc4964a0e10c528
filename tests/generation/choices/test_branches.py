"""Choices as tokens, against the tokenizers' own reading of prompt and choice as one text."""

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.branches import branch, branch_neutral, check_room
from openllama_cli.generation.choices.config import MOST_CHOICES, Choices
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
    assert found.positions == max(map(len, joint))


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
    found = branch(sentencepiece, "the quick", Choices(("fox", "the lazy dog")))
    check_room(found, found.positions, "tiny")
    with pytest.raises(UsageError) as caught:
        check_room(found, found.positions - 1, "tiny")
    assert caught.value.code == "context_length_exceeded"
