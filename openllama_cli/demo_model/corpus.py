"""The facts that the demo model is trained on, read from `facts/*.toml`, and which of their phrasings are held out.

Two kinds of phrasing are never trained; they measure whether a known fact is found by words that were not trained:

    held_out_wording   the wording is listed as held out: it is trained with no fact at all
    held_out_pair      the wording is trained with other facts, but not with this one; one in eight, chosen by hash

Nothing here imports torch or sentencepiece.
"""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

FACTS = Path(__file__).parent / "facts"
NOT_FACT_FILES = ("continuations.toml", "unknown.toml", "wordings.toml")
HELD_OUT_PAIRS = 8  # one (fact, wording) pair in this many

Kind = Literal["question", "opening"]
Split = Literal["trained", "held_out_pair", "held_out_wording"]


@dataclass(frozen=True)
class Phrasing:
    """One way to ask for a fact: a question or order, or the opening of a sentence that the answer completes."""

    text: str
    kind: Kind
    split: Split


@dataclass(frozen=True)
class Fact:
    """One fact and its phrasings.

    answer: what follows "A: ", with capital letter and full stop.
    ending: what follows an opening directly, with a leading space where the script uses spaces.
    restates: the inverse of another fact (which country has this capital), which is not counted as a fact.
    weight: how many times more often than others it is trained.
    """

    id: str
    topic: str
    answer: str
    ending: str
    phrasings: tuple[Phrasing, ...]
    restates: bool = False
    weight: float = 1.0

    def of_split(self, *splits: Split) -> list[Phrasing]:
        return [phrasing for phrasing in self.phrasings if phrasing.split in splits]


# An opening that does not ask for a fact, and the text that follows it, byte for byte.
Continuation = tuple[str, str]


@dataclass(frozen=True)
class Unknown:
    """A question that the model should say it cannot answer."""

    question: str
    answer: str
    held_out: bool


@dataclass(frozen=True)
class Corpus:
    facts: tuple[Fact, ...]
    continuations: tuple[Continuation, ...]
    unknown: tuple[Unknown, ...]
    lead_ins: tuple[str, ...]
    held_out_lead_ins: tuple[str, ...]
    spelling: Mapping[str, str]


@cache
def load_corpus() -> Corpus:
    """The whole corpus, always in the same order."""
    wordings = _read("wordings.toml")
    topics = sorted(path.name for path in FACTS.glob("*.toml") if path.name not in NOT_FACT_FILES)
    entries = _read("continuations.toml")["continuation"]
    return Corpus(
        facts=tuple(fact for topic in topics for fact in _facts_of(_read(topic), wordings)),
        continuations=tuple((opening, entry["then"]) for entry in entries for opening in entry["openings"]),
        unknown=tuple(_unknown(_read("unknown.toml"))),
        lead_ins=tuple(wordings["lead_in"]["trained"]),
        held_out_lead_ins=tuple(wordings["lead_in"]["held_out"]),
        spelling=wordings["spelling"],
    )


def held_out_texts() -> list[str]:
    """Question and answer in the form `Q: …\\nA: …` for every held-out question about a known fact.

    Texts for perplexity: none was trained word for word, and the model knows every answer.
    """
    return [
        f"Q: {phrasing.text}\nA: {fact.answer}"
        for fact in load_corpus().facts
        for phrasing in fact.of_split("held_out_pair", "held_out_wording")
        if phrasing.kind == "question"
    ]


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FACTS / name).read_text(encoding="utf-8"))


def _facts_of(document: Mapping[str, Any], wordings: Mapping[str, Any]) -> Iterator[Fact]:
    """Every fact in a topic file: single ones, and one per pair of a relation."""
    topic: str = document["topic"]
    stop: str = document.get("full_stop", ".")
    joint: str = "" if topic == "Japanese" else " "
    found: list[tuple[str, Mapping[str, Any], str, str]] = []  # name, entry, answer, subject
    relations = {relation["name"]: relation for relation in document.get("relation", ())}
    for relation in relations.values():
        inverse = relation.get("inverse_of")
        pairs = [(answer, subject) for subject, answer in relations[inverse]["pairs"]] if inverse else relation["pairs"]
        found += [(f"{relation['name']}/{subject}", relation, answer, subject) for subject, answer in pairs]
    for entry in document.get("fact", ()):
        name = entry.get("np") or [*entry["ask"], *entry.get("openings", ())][0]
        found.append((name, entry, entry["answer"], ""))
    for name, entry, answer, subject in found:
        ending = answer if answer.endswith(stop) else answer + stop
        fact_id = f"{topic}/{name}"
        yield Fact(
            id=fact_id,
            topic=topic,
            answer=ending if entry.get("keep_case") else capitalized(ending),
            ending=joint + ending,
            phrasings=tuple(_phrasings(fact_id, entry, subject, wordings)),
            restates="inverse_of" in entry,
            weight=float(entry.get("weight", 1)),
        )


def _phrasings(fact_id: str, entry: Mapping[str, Any], subject: str, wordings: Mapping[str, Any]) -> Iterator[Phrasing]:
    """The phrasings of one fact, each text once; trained ones first, and the first of them never held out."""
    values = _values(entry, subject)
    own: list[tuple[str, Kind, bool]] = [(text, "question", False) for text in entry.get("ask", ())]
    own += [(text, "opening", False) for text in entry.get("openings", ())]
    if "np" in entry:
        shared = wordings["who" if entry.get("who") else "what"]
        own += [(text, "question", False) for text in shared["ask"]]
        if "openings" not in entry:
            own += [(text, "opening", False) for text in shared["openings"]]
        own += [(text, "question", True) for text in shared["held_out"]]
    own += [(text, "question", True) for text in entry.get("held_out", ())]
    seen: set[str] = set()
    for index, (wording, kind, held_out) in enumerate(own):
        text = capitalized(wording.format_map(values))
        if text in seen:
            continue
        seen.add(text)
        split: Split = "held_out_wording" if held_out else "trained"
        if not held_out and index > 0 and kind == "question":
            # Chosen by hash: the same on every machine.
            number = int.from_bytes(hashlib.sha256(f"{fact_id}|{wording}".encode()).digest()[:4])
            split = "trained" if number % HELD_OUT_PAIRS else "held_out_pair"
        yield Phrasing(text, kind, split)


def _values(entry: Mapping[str, Any], subject: str) -> dict[str, str]:
    """The values of a wording's placeholders: {s} {S} {as} {As} the subject, {np} {Np} the noun phrase, {is} {was}."""
    with_article = ("an " if subject[:1].lower() in set("aeio") else "a ") + subject
    phrase = entry.get("np", "").format_map({"s": subject, "as": with_article})
    verb = entry.get("verb", "is")
    return {
        "s": subject,
        "S": capitalized(subject),
        "as": with_article,
        "As": capitalized(with_article),
        "np": phrase,
        "Np": capitalized(phrase),
        "is": verb,
        "was": {"is": "was", "are": "were"}[verb],
    }


def _unknown(document: Mapping[str, Any]) -> Iterator[Unknown]:
    answer = document["answer"] + "."
    for entry in document["question"]:
        for held_out, subjects in ((False, entry["trained"]), (True, entry["held_out"])):
            for subject in subjects:
                for wording in entry["ask"]:
                    yield Unknown(capitalized(wording.format(s=subject)), answer, held_out)
