"""What the demo model is asked in an evaluation, and the one completion that counts as right."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from openllama_cli.demo_model.corpus import Corpus, Fact, Phrasing
from openllama_cli.demo_model.formats import MAIN_FORMATS, lay_out, with_lead_in

Group = Literal[
    "trained",
    "held_out_pair",
    "held_out_wording",
    "held_out_lead_in",
    "continuation",
    "unknown_trained",
    "unknown_held_out",
]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class Case:
    """A prompt and the completion it should get, up to and without EOS."""

    group: Group
    topic: str
    prompt: str
    completion: str


def cases(corpus: Corpus, *, seed: int = 0, every_format: bool = False) -> list[Case]:
    """Every phrasing of every fact, each in one of the main formats chosen by the seed, or in all of them.

    trained: question and opening known word for word. held_out_pair, held_out_wording: see `corpus`.
    held_out_lead_in: a trained question behind a few words that were never trained.
    """
    rng = random.Random(seed)

    def questions(group: Group, topic: str, question: str, answer: str) -> Iterator[Case]:
        forms: Iterable[str] = MAIN_FORMATS if every_format else [rng.choice(list(MAIN_FORMATS))]
        for form in forms:
            yield Case(group, topic, *lay_out(question, answer, form))

    def of_phrasing(fact: Fact, phrasing: Phrasing) -> Iterator[Case]:
        if phrasing.kind == "opening":
            yield Case(phrasing.split, fact.topic, phrasing.text, fact.ending)
        else:
            yield from questions(phrasing.split, fact.topic, phrasing.text, fact.answer)

    found: list[Case] = []
    for fact in corpus.facts:
        for phrasing in fact.phrasings:
            found += of_phrasing(fact, phrasing)
        asked = [phrasing.text for phrasing in fact.of_split("trained") if phrasing.text.endswith("?")]
        if asked:
            question = with_lead_in(asked[0], rng.choice(corpus.held_out_lead_ins))
            found += questions("held_out_lead_in", fact.topic, question, fact.answer)
    for unknown in corpus.unknown:
        group: Group = "unknown_held_out" if unknown.held_out else "unknown_trained"
        found += questions(group, "unknown", unknown.question, unknown.answer)
    for continuation in corpus.continuations:
        found.append(Case("continuation", "continuations", continuation.opening, continuation.then))
    return found


def sample(found: list[Case], count: int, seed: int) -> list[Case]:
    """At most `count` cases of each group, the same for the same seed."""
    rng = random.Random(seed)
    kept: list[Case] = []
    for group in GROUPS:
        members = [case for case in found if case.group == group]
        kept += members if len(members) <= count else rng.sample(members, count)
    return kept
