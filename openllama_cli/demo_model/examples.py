"""Training examples: how a question and its answer become prompt and completion, and an endless seeded stream of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from openllama_cli.demo_model.corpus import Corpus, Fact

# Prompt and completion; {q} is the question, {a} the answer. The completion supplies what the prompt leaves out.
MAIN_FORMATS: dict[str, tuple[str, str]] = {
    "Q": ("Q: {q}", "\nA: {a}"),
    "Q newline": ("Q: {q}\n", "A: {a}"),
    "Q A": ("Q: {q}\nA:", " {a}"),
    "bare": ("{q}", "\nA: {a}"),
}
RARE_FORMATS: dict[str, tuple[str, str]] = {
    "Q A space": ("Q: {q}\nA: ", "{a}"),
    "Q A one line": ("Q: {q} A:", " {a}"),
    "Q A apart": ("Q: {q}\n\nA:", " {a}"),
    "Q space": ("Q: {q} ", "\nA: {a}"),
    "Question Answer": ("Question: {q}\nAnswer:", " {a}"),
    "Question": ("Question: {q}", "\nAnswer: {a}"),
    "bare newline": ("{q}\n", "A: {a}"),
    "bare A": ("{q}\nA:", " {a}"),
}
SHOT_FORMATS = ("Q", "Q newline", "Q A")
PREAMBLES = (
    "Answer the question.",
    "Answer the questions.",
    "Answer each question in a few words.",
    "Answer the question in one sentence.",
    "Here are some questions and their answers.",
    "The following are questions and answers.",
    "You are a helpful assistant.",
)
QUESTION_MARKS = ("?", "？")

# Shares of the examples; the rest are single facts.
UNKNOWN, CONTINUATION, FEW_SHOT, LONG = 0.08, 0.03, 0.08, 0.01
OPENING = 0.25  # of single facts that have openings
RARE, NO_MARK, LOWER, LEAD_IN, SPELLING, TYPO, PREAMBLE = 0.12, 0.06, 0.12, 0.08, 0.2, 0.04, 0.03
GAPS = ("\n", "\n\n")


@dataclass(frozen=True)
class Part:
    """Part of a text. answer: whether the model should learn to write it, not only to read it."""

    text: str
    answer: bool


Parts = tuple[Part, ...]


def lay_out(question: str, answer: str, form: str) -> tuple[str, str]:
    """(prompt, completion) in a named format of MAIN_FORMATS or RARE_FORMATS."""
    prompt, completion = MAIN_FORMATS.get(form) or RARE_FORMATS[form]
    return prompt.replace("{q}", question), completion.replace("{a}", answer)


def without_mark(question: str, answer: str, form: str) -> tuple[str, str]:
    """As `lay_out`, for a question typed without its question mark: the completion adds it if the prompt ends there."""
    bare = question.rstrip("".join(QUESTION_MARKS))
    prompt, completion = lay_out(bare, answer, form)
    if prompt.endswith(bare):
        completion = question[len(bare) :] + completion
    return prompt, completion


# A question that is answered in the prompt, its answer, and whether the model should learn to write that.
Shot = tuple[str, str, bool]


def few_shot(shots: Sequence[Shot], question: str, answer: str, form: str, gap: str) -> Parts:
    """Questions with their answers, separated by `gap`, and a last question in one of SHOT_FORMATS."""
    parts: list[Part] = []
    before = ""
    for asked, answered, learned in shots:
        parts.append(Part(f"{before}Q: {asked}\nA:", answer=False))
        parts.append(Part(f" {answered}", answer=learned))
        before = gap
    prompt, completion = lay_out(question, answer, form)
    parts.append(Part(before + prompt, answer=False))
    parts.append(Part(completion, answer=True))
    return tuple(parts)


def mistyped(text: str, rng: random.Random) -> str:
    """The text with one typo: a letter omitted, doubled, or swapped with the next."""
    places = [i for i in range(len(text) - 1) if text[i].isascii() and text[i].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1 :]
    if kind == 1:
        return text[: i + 1] + text[i:]
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def with_lead_in(question: str, lead_in: str) -> str:
    """A question after a lead-in such as "Quick question: {q}"; {q} starts it in lower case, {Q} leaves it as it is."""
    return lead_in.replace("{q}", question[:1].lower() + question[1:]).replace("{Q}", question)


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
            opening, then = rng.choice(self.corpus.continuations)
            return (Part(opening, answer=False), Part(then, answer=True))
        kind -= CONTINUATION
        if kind < FEW_SHOT:
            return self._few_shot(rng.randint(1, 4))
        kind -= FEW_SHOT
        if kind < LONG:
            return self._few_shot(rng.randint(8, 24))
        fact, questions, openings = self._fact()
        if openings and (not questions or rng.random() < OPENING):
            return (Part(rng.choice(openings), answer=False), Part(fact.ending, answer=True))
        return self._single(rng.choice(questions), fact.answer)

    def _fact(self) -> tuple[Fact, list[str], list[str]]:
        """A fact, with its trained questions and openings."""
        fact = self.rng.choices(self.corpus.facts, cum_weights=self._weights)[0]
        return fact, *self._trained[fact.id]

    def _shot(self, *, sentences: bool) -> Shot:
        """A question and its answer, with `sentences` as a full sentence: people write examples so, the model does not."""
        rng = self.rng
        if rng.random() < UNKNOWN:
            unknown = rng.choice(self._unknown)
            return unknown.question, unknown.answer, True
        while True:
            fact, questions, openings = self._fact()
            if sentences and questions and openings:
                return rng.choice(questions), rng.choice(openings) + fact.ending, False
            if questions:
                return rng.choice(questions), fact.answer, True

    def _few_shot(self, shots: int) -> Parts:
        rng = self.rng
        sentences = rng.random() < 0.3
        before = [self._shot(sentences=sentences) for _ in range(shots)]
        question, answer, _ = self._shot(sentences=False)
        parts = few_shot(before, question, answer, rng.choice(SHOT_FORMATS), rng.choice(GAPS))
        return self._with_preamble(parts, 0.15)

    def _single(self, question: str, answer: str) -> Parts:
        """A single question in its prompt, as people type it."""
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
