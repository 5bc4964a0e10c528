"""The corpus: enough facts, none twice, none against another, and nothing held out that is trained."""

from collections import Counter, defaultdict

import pytest

from openllama_cli.demo_model.corpus import held_out_texts, load_corpus
from openllama_cli.demo_model.evaluate import GROUPS, cases, sample
from openllama_cli.demo_model.examples import QUESTION_MARKS, ExampleStream

CORPUS = load_corpus()


def plain(question: str) -> str:
    return question.lower().rstrip("".join(QUESTION_MARKS) + " .")


def test_has_at_least_250_facts_in_the_promised_topics():
    topics = Counter(fact.topic for fact in CORPUS.facts if not fact.restates)
    assert sum(topics.values()) >= 250
    promised = {"animals", "geography", "elements", "space", "computing", "olc", "German", "Spanish", "Hindi", "Japanese"}
    assert topics.keys() >= promised
    assert min(topics.values()) >= 9


def test_no_fact_is_stated_twice():
    assert [name for name, count in Counter(fact.id for fact in CORPUS.facts).items() if count > 1] == []
    askers = defaultdict(set)
    for fact in CORPUS.facts:
        for phrasing in fact.phrasings:
            askers[plain(phrasing.text)].add(fact.id)
    assert {text: ids for text, ids in askers.items() if len(ids) > 1} == {}


def test_no_question_has_two_answers():
    answers = defaultdict(set)
    for fact in CORPUS.facts:
        for phrasing in fact.phrasings:
            answers[plain(phrasing.text)].add(fact.answer)
    for unknown in CORPUS.unknown:
        answers[plain(unknown.question)].add(unknown.answer)
    assert {text: given for text, given in answers.items() if len(given) > 1} == {}


def test_every_fact_is_trained_in_two_wordings_or_more():
    assert [fact.id for fact in CORPUS.facts if len(fact.of_split("trained")) < 2] == []


def test_answers_are_short_and_end_with_a_full_stop():
    for fact in CORPUS.facts:
        assert fact.answer.endswith((".", "।", "。")), fact.id
        assert not fact.answer.endswith(".."), fact.id
        assert len(fact.answer) <= 80, fact.id
        assert "{" not in fact.answer + "".join(phrasing.text for phrasing in fact.phrasings), fact.id


def test_the_example_question_is_there_in_five_languages():
    trained = {phrasing.text for fact in CORPUS.facts for phrasing in fact.of_split("trained")}
    assert trained >= {
        "What is the largest animal?",
        "Was ist das größte Tier?",
        "¿Cuál es el animal más grande?",
        "सबसे बड़ा जानवर कौन सा है?",
        "一番大きい動物は何ですか？",
    }


def phrasings(*splits):
    return {plain(phrasing.text) for fact in CORPUS.facts for phrasing in fact.of_split(*splits)}


def test_held_out_phrasings_are_not_among_the_trained_ones():
    held_out = phrasings("held_out_pair", "held_out_wording")
    assert len(held_out) > 2000
    assert phrasings("trained") & held_out == set()


def test_training_examples_contain_nothing_held_out():
    held_out = phrasings("held_out_pair", "held_out_wording") | {
        plain(unknown.question) for unknown in CORPUS.unknown if unknown.held_out
    }
    stream = ExampleStream(CORPUS, seed=3)
    seen = set()
    for _ in range(30_000):
        for part in stream.draw():
            for line in part.text.split("\n"):
                seen.add(plain(line.removeprefix("Q: ").removeprefix("Question: ").removesuffix(" A:")))
    assert len(seen) > 10_000
    assert seen & held_out == set()


def test_streams_of_one_seed_are_equal_and_of_two_seeds_are_not():
    first, again, other = (ExampleStream(CORPUS, seed) for seed in (5, 5, 6))
    examples = [first.draw() for _ in range(200)]
    assert examples == [again.draw() for _ in range(200)]
    assert examples != [other.draw() for _ in range(200)]


def test_held_out_texts_are_questions_with_their_answers():
    texts = held_out_texts()
    assert len(texts) > 2000
    assert "Q: What's the biggest animal in the world?\nA: The blue whale." in texts
    assert "Q: What is the largest animal?\nA: The blue whale." not in texts


@pytest.mark.parametrize("every_format", [False, True])
def test_cases_ask_every_phrasing_of_every_fact(every_format):
    found = cases(CORPUS, every_format=every_format)
    assert {case.group for case in found} == set(GROUPS)
    kinds = Counter(phrasing.kind for fact in CORPUS.facts for phrasing in fact.phrasings)
    asked = [case for case in found if case.group in ("trained", "held_out_pair", "held_out_wording")]
    assert len(asked) == kinds["question"] * (4 if every_format else 1) + kinds["opening"]


def test_a_sample_of_cases_is_the_same_for_the_same_seed():
    found = cases(CORPUS)
    assert sample(found, 5, seed=1) == sample(found, 5, seed=1)
    assert sample(found, 5, seed=1) != sample(found, 5, seed=2)
    assert max(Counter(case.group for case in sample(found, 5, seed=1)).values()) == 5
