"""How questions become prompts: each format leaves to the completion exactly what the prompt left out."""

import random

import pytest

from openllama_cli.demo_model.examples import (
    MAIN_FORMATS,
    RARE_FORMATS,
    Part,
    Shot,
    few_shot,
    lay_out,
    mistyped,
    with_lead_in,
    without_mark,
)


@pytest.mark.parametrize("form", [*MAIN_FORMATS, *RARE_FORMATS])
def test_prompt_and_completion_together_ask_and_answer(form):
    prompt, completion = lay_out("Why?", "Because.", form)
    assert "Why?" in prompt
    assert "Because." not in prompt
    assert completion.endswith("Because.")
    assert (prompt + completion).count("A:") + (prompt + completion).count("Answer:") == 1


def test_the_main_formats_all_end_in_the_same_text():
    texts = {"".join(lay_out("Why?", "Because.", form)).removeprefix("Q: ") for form in MAIN_FORMATS}
    assert texts == {"Why?\nA: Because."}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("Q", ("Q: Why", "?\nA: Because.")),
        ("bare", ("Why", "?\nA: Because.")),
        ("Q A", ("Q: Why\nA:", " Because.")),
        ("Q newline", ("Q: Why\n", "A: Because.")),
    ],
)
def test_a_question_without_its_mark_gets_it_while_it_is_open(form, expected):
    assert without_mark("Why?", "Because.", form) == expected


def test_a_wide_question_mark_comes_back_wide():
    assert without_mark("何？", "木星です。", "Q") == ("Q: 何", "？\nA: 木星です。")


def test_few_shot_prompts_set_the_shots_apart_and_mark_what_is_learned():
    shots = [Shot("One?", "Yes.", learned=True), Shot("Two?", "It is so.", learned=False)]
    assert few_shot(shots, "Three?", "No.", "Q", "\n\n") == (
        Part("Q: One?\nA:", answer=False),
        Part(" Yes.", answer=True),
        Part("\n\nQ: Two?\nA:", answer=False),
        Part(" It is so.", answer=False),
        Part("\n\nQ: Three?", answer=False),
        Part("\nA: No.", answer=True),
    )


def test_a_typing_slip_changes_one_place():
    rng = random.Random(0)
    text = "What is the largest animal?"
    slips = {mistyped(text, rng) for _ in range(200)}
    assert all(abs(len(slip) - len(text)) <= 1 for slip in slips)
    assert len(slips) > 20
    assert mistyped("何ですか", rng) == "何ですか"


def test_lead_ins_change_the_first_letter_only_where_they_go_on():
    assert with_lead_in("Why?", "Hi, {q}") == "Hi, why?"
    assert with_lead_in("Why?", "Please answer: {Q}") == "Please answer: Why?"
