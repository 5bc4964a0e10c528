"""The corpus (enough facts, none twice or contradictory, none both held out and trained), and how facts become prompts."""

import functools
import random
from collections import Counter, defaultdict

from openllama_cli.demo_model.corpus import Corpus, held_out_texts, load_corpus
from openllama_cli.demo_model.evaluate import GROUPS, cases, sample
from openllama_cli.demo_model.examples import (
    MAIN_FORMATS,
    QUESTION_MARKS,
    RARE_FORMATS,
    ExampleStream,
    Part,
    few_shot,
    lay_out,
    mistyped,
    with_lead_in,
    without_mark,
)


@functools.cache
def corpus() -> Corpus:
    return load_corpus()


def plain(question: str) -> str:
    return question.lower().rstrip("".join(QUESTION_MARKS) + " .")


def test_has_at_least_250_facts_in_the_promised_topics():
    topics = Counter(fact.topic for fact in corpus().facts if not fact.restates)
    assert sum(topics.values()) >= 250
    promised = {"animals", "geography", "elements", "space", "computing", "olc", "German", "Spanish", "Hindi", "Japanese"}
    assert topics.keys() >= promised
    assert min(topics.values()) >= 9


def test_no_fact_is_stated_twice_and_no_question_has_two_answers():
    assert [name for name, count in Counter(fact.id for fact in corpus().facts).items() if count > 1] == []
    askers, answers = defaultdict(set), defaultdict(set)
    for fact in corpus().facts:
        for phrasing in fact.phrasings:
            askers[plain(phrasing.text)].add(fact.id)
            answers[plain(phrasing.text)].add(fact.answer)
    for unknown in corpus().unknown:
        answers[plain(unknown.question)].add(unknown.answer)
    for found in (askers, answers):
        assert {text: several for text, several in found.items() if len(several) > 1} == {}


def test_every_fact_has_two_trained_wordings_and_a_short_answer_with_a_full_stop():
    for fact in corpus().facts:
        assert len(fact.of_split("trained")) >= 2, fact.id
        assert fact.answer.endswith((".", "।", "。")), fact.id
        assert not fact.answer.endswith(".."), fact.id
        assert len(fact.answer) <= 80, fact.id
        assert "{" not in fact.answer + "".join(phrasing.text for phrasing in fact.phrasings), fact.id


def phrasings(*splits):
    return {plain(phrasing.text) for fact in corpus().facts for phrasing in fact.of_split(*splits)}


def test_training_examples_contain_nothing_held_out():
    held_out = phrasings("held_out_pair", "held_out_wording")
    assert len(held_out) > 2000
    assert phrasings("trained") & held_out == set()
    held_out |= {plain(unknown.question) for unknown in corpus().unknown if unknown.held_out}
    stream = ExampleStream(corpus(), seed=3)
    seen = set()
    for _ in range(15_000):
        for part in stream.draw():
            for line in part.text.split("\n"):
                seen.add(plain(line.removeprefix("Q: ").removeprefix("Question: ").removesuffix(" A:")))
    assert len(seen) > 5_000
    assert seen & held_out == set()


def test_streams_of_one_seed_are_equal_and_of_two_seeds_are_not():
    first, again, other = (ExampleStream(corpus(), seed) for seed in (5, 5, 6))
    examples = [first.draw() for _ in range(200)]
    assert examples == [again.draw() for _ in range(200)]
    assert examples != [other.draw() for _ in range(200)]


def test_held_out_texts_are_questions_with_their_answers():
    texts = held_out_texts()
    assert len(texts) > 2000
    assert "Q: What's the biggest animal in the world?\nA: The blue whale." in texts
    assert "Q: What is the largest animal?\nA: The blue whale." not in texts


def test_cases_ask_every_phrasing_of_every_fact_and_samples_of_a_seed_are_equal():
    kinds = Counter(phrasing.kind for fact in corpus().facts for phrasing in fact.phrasings)
    for every_format, formats in ((True, 4), (False, 1)):
        found = cases(corpus(), every_format=every_format)
        assert {case.group for case in found} == set(GROUPS)
        asked = [case for case in found if case.group in ("trained", "held_out_pair", "held_out_wording")]
        assert len(asked) == kinds["question"] * formats + kinds["opening"]
    assert sample(found, 5, seed=1) == sample(found, 5, seed=1)
    assert sample(found, 5, seed=1) != sample(found, 5, seed=2)
    assert max(Counter(case.group for case in sample(found, 5, seed=1)).values()) == 5


# -- formats --------------------------------------------------------------------------------------------------------


def test_prompt_and_completion_together_ask_and_answer():
    for form in (*MAIN_FORMATS, *RARE_FORMATS):
        prompt, completion = lay_out("Why?", "Because.", form)
        assert "Why?" in prompt
        assert "Because." not in prompt
        assert completion.endswith("Because.")
        assert (prompt + completion).count("A:") + (prompt + completion).count("Answer:") == 1
        assert form in RARE_FORMATS or (prompt + completion).removeprefix("Q: ") == "Why?\nA: Because."


def test_a_question_without_its_mark_gets_it_while_it_is_open():
    assert without_mark("Why?", "Because.", "Q") == ("Q: Why", "?\nA: Because.")
    assert without_mark("Why?", "Because.", "bare") == ("Why", "?\nA: Because.")
    assert without_mark("Why?", "Because.", "Q A") == ("Q: Why\nA:", " Because.")
    assert without_mark("Why?", "Because.", "Q newline") == ("Q: Why\n", "A: Because.")
    assert without_mark("何？", "木星です。", "Q") == ("Q: 何", "？\nA: 木星です。")


def test_few_shot_prompts_set_the_shots_apart_and_mark_what_is_learned():
    shots = [("One?", "Yes.", True), ("Two?", "It is so.", False)]
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
