"""The endless, seeded stream of training examples: a fact, one of its phrasings, a format."""

import random
from itertools import accumulate

from openllama_cli.demo_model.corpus import Corpus, Fact
from openllama_cli.demo_model.formats import (
    MAIN_FORMATS,
    PREAMBLES,
    RARE_FORMATS,
    SHOT_FORMATS,
    Part,
    Parts,
    Shot,
    few_shot,
    lay_out,
    mistyped,
    with_lead_in,
    without_mark,
)

# Shares of what is drawn; the rest is one fact by itself.
UNKNOWN, CONTINUATION, FEW_SHOT, LONG = 0.08, 0.03, 0.08, 0.01
OPENING = 0.25  # of single facts that have openings
RARE, NO_MARK, LOWER, LEAD_IN, SPELLING, TYPO, PREAMBLE = 0.12, 0.06, 0.12, 0.08, 0.2, 0.04, 0.03
GAPS = ("\n", "\n\n")


class ExampleStream:
    """Draws training examples. Two streams of the same corpus and seed give the same examples."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self.corpus = corpus
        self.rng = random.Random(seed)
        self._weights = list(accumulate(fact.weight for fact in corpus.facts))
        self._trained = {
            fact.id: (
                [p.text for p in fact.of_split("trained") if p.kind == "question"],
                [p.text for p in fact.of_split("trained") if p.kind == "opening"],
            )
            for fact in corpus.facts
        }
        self._unknown = [unknown for unknown in corpus.unknown if not unknown.held_out]

    def draw(self) -> Parts:
        rng = self.rng
        kind = rng.random()
        if kind < UNKNOWN:
            unknown = rng.choice(self._unknown)
            return self._single(unknown.question, unknown.answer)
        kind -= UNKNOWN
        if kind < CONTINUATION:
            continuation = rng.choice(self.corpus.continuations)
            return (Part(continuation.opening, answer=False), Part(continuation.then, answer=True))
        kind -= CONTINUATION
        if kind < FEW_SHOT:
            return self._few_shot(rng.randint(1, 4))
        kind -= FEW_SHOT
        if kind < LONG:
            return self._few_shot(rng.randint(8, 24))
        fact = self._fact()
        questions, openings = self._trained[fact.id]
        if openings and (not questions or rng.random() < OPENING):
            return (Part(rng.choice(openings), answer=False), Part(fact.ending, answer=True))
        return self._single(rng.choice(questions), fact.answer)

    def _fact(self) -> Fact:
        return self.rng.choices(self.corpus.facts, cum_weights=self._weights)[0]

    def _shot(self, *, sentences: bool) -> Shot:
        """A question and its answer, as a whole sentence if wanted: people write their examples so, but the model does not."""
        rng = self.rng
        if rng.random() < UNKNOWN:
            unknown = rng.choice(self._unknown)
            return Shot(unknown.question, unknown.answer, learned=True)
        while True:
            fact = self._fact()
            questions, openings = self._trained[fact.id]
            if sentences and questions and openings:
                return Shot(rng.choice(questions), rng.choice(openings) + fact.ending, learned=False)
            if questions:
                return Shot(rng.choice(questions), fact.answer, learned=True)

    def _few_shot(self, shots: int) -> Parts:
        rng = self.rng
        sentences = rng.random() < 0.3
        before = [self._shot(sentences=sentences) for _ in range(shots)]
        last = self._shot(sentences=False)
        parts = few_shot(before, last.question, last.answer, rng.choice(SHOT_FORMATS), rng.choice(GAPS))
        return self._with_preamble(parts, 0.15)

    def _single(self, question: str, answer: str) -> Parts:
        """A question alone in its prompt, worded as people type it."""
        rng = self.rng
        if rng.random() < SPELLING:
            for british, american in self.corpus.spelling.items():
                question = question.replace(british, american)
        if rng.random() < LEAD_IN and question.endswith("?"):
            question = with_lead_in(question, rng.choice(self.corpus.lead_ins))
        if rng.random() < LOWER:
            question = question.lower()
        if rng.random() < TYPO:
            question = mistyped(question, rng)
        form = rng.choice(list(RARE_FORMATS if rng.random() < RARE else MAIN_FORMATS))
        layout = without_mark if rng.random() < NO_MARK else lay_out
        prompt, completion = layout(question, answer, form)
        return self._with_preamble((Part(prompt, answer=False), Part(completion, answer=True)), PREAMBLE)

    def _with_preamble(self, parts: Parts, share: float) -> Parts:
        if self.rng.random() >= share:
            return parts
        preamble = self.rng.choice(PREAMBLES) + self.rng.choice(GAPS)
        return (Part(preamble + parts[0].text, answer=False), *parts[1:])
