"""How a question and its answer are laid out as a prompt and the completion that should follow it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Prompt and completion; {q} is the question, {a} the answer. The completion supplies whatever the prompt left out.
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


@dataclass(frozen=True)
class Part:
    """A stretch of text; `answer` says whether the model should learn to write it, or only to read it."""

    text: str
    answer: bool


Parts = tuple[Part, ...]


def lay_out(question: str, answer: str, form: str) -> tuple[str, str]:
    """(prompt, completion) in a named format of MAIN_FORMATS or RARE_FORMATS."""
    prompt, completion = MAIN_FORMATS.get(form) or RARE_FORMATS[form]
    return prompt.replace("{q}", question), completion.replace("{a}", answer)


def without_mark(question: str, answer: str, form: str) -> tuple[str, str]:
    """As `lay_out`, for a question typed without its question mark: the completion adds it where the question is still open."""
    bare = question.rstrip("".join(QUESTION_MARKS))
    prompt, completion = lay_out(bare, answer, form)
    if prompt.endswith(bare):
        completion = question[len(bare) :] + completion
    return prompt, completion


@dataclass(frozen=True)
class Shot:
    """A question that is answered in the prompt; `learned` if its answer is one the model should write itself."""

    question: str
    answer: str
    learned: bool


def few_shot(shots: Sequence[Shot], question: str, answer: str, form: str, gap: str) -> Parts:
    """Questions with their answers, `gap` between the pairs, and a last question in one of SHOT_FORMATS."""
    parts: list[Part] = []
    before = ""
    for shot in shots:
        parts.append(Part(f"{before}Q: {shot.question}\nA:", answer=False))
        parts.append(Part(f" {shot.answer}", answer=shot.learned))
        before = gap
    prompt, completion = lay_out(question, answer, form)
    parts.append(Part(before + prompt, answer=False))
    parts.append(Part(completion, answer=True))
    return tuple(parts)


def mistyped(text: str, rng: random.Random) -> str:
    """The text with one slip of the keyboard: a letter left out, doubled, or swapped with the next."""
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
    """A question behind a few words such as "Quick question: {q}"; {q} starts it in lower case, {Q} leaves it as it is."""
    return lead_in.replace("{q}", question[:1].lower() + question[1:]).replace("{Q}", question)
