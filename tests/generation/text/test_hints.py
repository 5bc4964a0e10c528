"""Hints about prompts and ends: each rule, and what it leaves alone."""

import pytest

from openllama_cli.generation.text.hints import about_end, about_prompt
from openllama_cli.models.find import demo_folder
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(demo_folder())


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("The largest animal is ", "the prompt ends in a space: it becomes a token of its own"),
        ("[INST] Hello [/INST]", "the prompt has [INST], the markup of a chat model"),
        ("<|im_start|>user\nHello", "the prompt has <|im_start|>"),
        ("<|begin_of_text|>Hello", "the prompt has <|begin_of_text|>"),
        ("<s>The largest", "the prompt begins with <s>, which is text here"),
        ("The largest anim", "the prompt may end in the middle of a word ('anim'); --heal"),
    ],
)
def test_what_is_said_about_a_prompt(prompt: str, said: str, tokenizer: Tokenizer) -> None:
    (found,) = about_prompt(prompt, tokenizer)
    assert found.startswith(said)


@pytest.mark.parametrize(
    "prompt",
    [
        "The largest animal is",
        "Q: What is it?\nA:",
        "### Instruction:\nSay it.\n",
        " ",
        "",
        "a list[INT]",
        "def main():\n    ",
        "Mr. Smithson",
        "is",
    ],
)
def test_prompts_that_are_as_they_should_be(prompt: str, tokenizer: Tokenizer) -> None:
    assert about_prompt(prompt, tokenizer) == []
    assert about_prompt(prompt, None) == []


def test_what_a_server_has_the_tokenizer_of_is_judged_by_the_text_alone() -> None:
    assert about_prompt("is ", None)[0].startswith("the prompt ends in a space")
    assert about_prompt("<s>x", None)
    assert about_prompt("The largest anim", None) == []


@pytest.mark.parametrize(
    ("reason", "text", "said"),
    [
        ("length", " the blue", "cut off after 64 tokens; -n 128"),
        ("length", " the blue.", None),
        ("length", ' "the blue."\n', None),
        ("length", "", None),
        ("eos", " the blue", None),
        ("sentence", " the blue.", None),
        ("repetition", " a a a", "--repetition-penalty 1.1 or --dry-multiplier 0.8"),
    ],
)
def test_what_is_said_about_an_end(reason: str, text: str, said: str | None) -> None:
    found = about_end(reason, text, 64)
    assert (found is None) == (said is None)
    assert said is None or said in str(found)
    assert about_end("length", " the blue", None) is None


def test_a_healed_end_is_not_odd_but_all_else_stays_so(tokenizer: Tokenizer) -> None:
    assert about_prompt("the ", tokenizer, healed=True) == []
    assert [said[:21] for said in about_prompt("<s>[INST] ", tokenizer, healed=True)] == [
        "the prompt has [INST]",
        "the prompt begins wit",
    ]


def test_a_word_without_end_is_looked_at_in_no_time(tokenizer: Tokenizer) -> None:
    """The square of its length would be minutes."""
    assert about_prompt("A" * 1_000_000 + "1", tokenizer) == []


def test_more_tokens_are_as_many_as_there_is_room_for() -> None:
    assert "-n 128 gives it more" in str(about_end("length", " the blue", 64, 500))
    assert "-n 100 gives it more" in str(about_end("length", " the blue", 64, 100))
    assert "a shorter prompt leaves room for more" in str(about_end("length", " the blue", 64, 64))
