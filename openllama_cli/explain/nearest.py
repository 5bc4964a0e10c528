"""The entries of the catalogue that are nearest to an unknown message: those that share its rarest words.

A word counts the more, the fewer entries have it: its weight is log(entries / entries with it), as in tf-idf. An entry is as
near as the sum of the weights of the words it shares; with a single shared word it is not called near.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

from openllama_cli.explain.catalogue import KnownError, known_errors

_WORD = re.compile(r"[a-z_][a-z0-9_]{2,40}")
# What says that something is wrong, not what.
_EMPTY = frozenset(
    _WORD.findall(
        "and any are argument but call can cannot does each error exception expected failed false for found from get got has "
        "have its may more must none not one only other out set than that the them then there this too true two use used "
        "value was were what when which while will with you your"
    )
)
_LONGEST_TEXT = 2000
_MOST_WORDS = 4


@dataclass(frozen=True)
class Nearest:
    """An entry that may mean a message. shared: the words that both have, the rarest first."""

    code: str
    title: str
    shared: tuple[str, ...]


def nearest(text: str, number: int = 2) -> tuple[Nearest, ...]:
    """The entries that share the rarest words with a text, the nearest first; none without two shared words."""
    entries = [(entry, _words(_text(entry))) for entry in known_errors()]
    having = Counter(word for _, words in entries for word in words)
    asked = _words(text[:_LONGEST_TEXT])

    def weight(word: str) -> float:
        return math.log(len(entries) / having[word])

    shared = [(entry, sorted(asked & words, key=lambda word: (-weight(word), word))) for entry, words in entries]
    near = [(sum(map(weight, words)), entry, words) for entry, words in shared if len(words) >= 2]
    near.sort(key=lambda one: -one[0])
    return tuple(Nearest(entry.code, entry.title, tuple(words[:_MOST_WORDS])) for _, entry, words in near[:number])


def _text(entry: KnownError) -> str:
    return " ".join([entry.title, entry.example, *(pattern.text for pattern in entry.patterns)])


def _words(text: str) -> frozenset[str]:
    # An exception's class says little, but its module's name much: openllama_cli.errors.OlcError.
    return frozenset(word for word in _WORD.findall(text.lower()) if not word.endswith("error")) - _EMPTY
