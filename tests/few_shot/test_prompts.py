"""Few-shot prompts, byte for byte, and how many examples they keep."""

from pathlib import Path

import pytest

from openllama_cli.errors import OlcError, UsageError
from openllama_cli.few_shot import FewShot, FewShotPrompt, Fitting, read_examples
from openllama_cli.prompt_templates import PromptTemplate, load_template

FILE = "text,answer\none,odd\ntwo,even\nthree,odd\nfour,even\nfive,odd\n"
PARITY = PromptTemplate("parity", "{{ text }} is", variables=("text",), separator="\n")


def few_shot(folder: Path, shots: int, template: PromptTemplate = PARITY, content: str = FILE, **how: object) -> FewShot:
    path = folder / "examples.csv"
    path.write_text(content)
    return FewShot(template, read_examples(path, template), shots, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shots", "text", "prompt"),
    [
        (0, "six", "six is"),
        (2, "six", "one is odd\ntwo is even\nsix is"),
        (5, "six", "one is odd\ntwo is even\nthree is odd\nfour is even\nfive is odd\nsix is"),
        # The row itself is no example of it: the next one stands in its place.
        (2, "one", "three is odd\ntwo is even\none is"),
        (2, "two", "one is odd\nthree is odd\ntwo is"),
        (2, "five", "one is odd\ntwo is even\nfive is"),
        # None is left to take its place.
        (5, "two", "one is odd\nthree is odd\nfour is even\nfive is odd\ntwo is"),
    ],
)
def test_a_prompt_is_what_one_would_write(tmp_path: Path, shots: int, text: str, prompt: str) -> None:
    assert few_shot(tmp_path, shots).prompt({"text": text}).text == prompt


def test_balance_takes_the_next_with_the_same_answer(tmp_path: Path) -> None:
    balanced = few_shot(tmp_path, 2, balance=True, content="text,answer\n1,odd\n2,even\n4,even\n3,odd\n")
    assert balanced.prompt({"text": "6"}).text == "1 is odd\n2 is even\n6 is"
    assert balanced.prompt({"text": "1"}).text == "3 is odd\n2 is even\n1 is"
    assert balanced.prompt({"text": "2"}).text == "1 is odd\n4 is even\n2 is"
    rare = few_shot(tmp_path, 2, balance=True, content="text,answer\n1,odd\n2,even\n4,even\n")
    assert rare.prompt({"text": "1"}).text == "4 is even\n2 is even\n1 is", "no other is odd"


def test_copies_of_the_row_are_skipped_together(tmp_path: Path) -> None:
    copies = few_shot(tmp_path, 2, content="text,answer\n1,odd\n1,odd\n1,odd\n2,even\n3,odd\n")
    assert copies.prompt({"text": "1"}).text == "2 is even\n3 is odd\n1 is"


def test_with_a_seed_all_rows_have_the_same_examples(tmp_path: Path) -> None:
    seeded = few_shot(tmp_path, 3, seed=7)
    shots = seeded.prompt({"text": "six"}).shots
    assert shots == seeded.prompt({"text": "seven"}).shots
    assert len(set(shots)) == 3
    assert few_shot(tmp_path, 2, seed=7).prompt({"text": "six"}).shots == shots[:2], "fewer shots begin more"
    assert few_shot(tmp_path, 3, seed=8).prompt({"text": "six"}).shots != shots


def test_a_heading_stands_once_and_knows_the_answers(tmp_path: Path) -> None:
    classify = few_shot(tmp_path, 1, load_template("classify"))
    assert classify.prompt({"text": "six"}).text == (
        "Each text belongs to one of these classes: odd, even.\n\nText: one\nClass: odd\n\nText: six\nClass:"
    )
    qa = few_shot(tmp_path, 1, load_template("qa"), "question,answer\nWhy?,So.\n")
    assert qa.prompt({"question": "Who?", "context": "I did."}).text == "I did.\n\nQ: Why?\nA: So.\n\nQ: Who?\nA:"


def test_answers_are_set_off_as_the_template_says(tmp_path: Path) -> None:
    lines = PromptTemplate("t", "{{ text }}\n", variables=("text",), separator="--\n")
    assert few_shot(tmp_path, 1, lines).prompt({"text": "six"}).text == "one\nodd--\nsix\n"
    arrow = PromptTemplate("t", "{{ text }}", variables=("text",), choices_prefix=" => ")
    assert few_shot(tmp_path, 1, arrow).prompt({"text": "six"}).text == "one => odd\n\nsix"


def test_more_shots_than_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--shots 6, but .* has 5 examples") as caught:
        few_shot(tmp_path, 6)
    assert "--shots 5" in caught.value.remedy


def test_a_variable_that_only_the_row_sets_is_refused(tmp_path: Path) -> None:
    """Its examples would say German where the row says Spanish."""
    translate = few_shot(tmp_path, 1, load_template("translate"), "text,answer\nGood day.,Guten Tag.\n")
    assert translate.prompt({"text": "Hi.", "target": "German"}).text.endswith("German: Guten Tag.\n\nEnglish: Hi.\nGerman:")
    with pytest.raises(UsageError, match=r"target is given, and the examples of .* do not have it"):
        translate.prompt({"text": "Hi.", "target": "Spanish"})


def test_an_example_that_the_template_cannot_render_is_named(tmp_path: Path) -> None:
    failing = PromptTemplate("t", "{{ 1 // (text | length) }}", variables=("text",))
    with pytest.raises(UsageError, match=r"line 3 of .*examples\.csv: template t, line 1"):
        few_shot(tmp_path, 2, failing, "text,answer\na,yes\n,no\n").prompt({"text": "x"})


def test_what_results_depend_on_changes_the_options(tmp_path: Path) -> None:
    options = few_shot(tmp_path, 2).options
    assert options["shots"] == 2
    assert str(options["examples"]).endswith(":examples.csv")
    assert few_shot(tmp_path, 2).options == options
    others = [
        few_shot(tmp_path, 3),
        few_shot(tmp_path, 2, seed=0),
        few_shot(tmp_path, 2, balance=True),
        few_shot(tmp_path, 2, content=FILE.replace("five", "six")),
        few_shot(tmp_path, 2, PromptTemplate("parity", "{{ text }} is", variables=("text",), separator=" ")),
    ]
    assert all(other.options != options for other in others)


PROMPT = FewShotPrompt("H ", ("aa", "bb", "cc"), "dd", " ")


@pytest.mark.parametrize(
    ("context", "max_tokens", "text"),
    [
        # A token is a character here: all of it has 13.
        (13, 0, "H aa bb cc dd"),
        (20, 7, "H aa bb cc dd"),
        (12, 0, "H aa bb dd"),
        (20, 8, "H aa bb dd"),
        (9, 0, "H aa dd"),
        (6, 0, "H dd"),
        (4, 0, "H dd"),
        (1, 0, "H dd"),
    ],
)
def test_the_last_examples_are_left_out_until_the_prompt_fits(context: int, max_tokens: int, text: str) -> None:
    fit = Fitting(len, context)
    assert fit(PROMPT, max_tokens).text == text
    kept = len(text.split()) - 2
    assert (fit.cut, fit.least) == ((0, 0) if kept == 3 else (1, kept))


def test_cut_prompts_are_counted() -> None:
    fit = Fitting(len, 12)
    for max_tokens in (0, 3, 0, -1):
        fit(PROMPT, max_tokens)
    assert (fit.cut, fit.least) == (3, 1)
    fit(FewShotPrompt("", (), "x" * 100, ""), 0)
    assert fit.cut == 3, "there was nothing to leave out"


def test_a_text_without_tokens_is_left_to_who_runs_it() -> None:
    def count(text: str) -> int:
        raise OlcError("no text", "none")

    assert Fitting(count, 1)(PROMPT, 0) is PROMPT
