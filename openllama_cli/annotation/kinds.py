"""What can be asked for of a text: the kinds of annotation, in the order in which they are shown."""

from collections.abc import Sequence
from difflib import get_close_matches

from openllama_cli.errors import UsageError

KINDS = ("tokens", "pos", "lemma", "entities", "dependencies", "vectors")
# Vectors are hundreds of numbers a token: only for who asks.
DEFAULT_KINDS = KINDS[:-1]
# Kinds that are told token by token; entities are told by themselves.
TOKEN_KINDS = frozenset({"tokens", "pos", "lemma", "dependencies", "vectors"})
NAMES = {
    "tokens": "tokens",
    "pos": "parts of speech",
    "lemma": "lemmas",
    "entities": "named entities",
    "dependencies": "dependencies",
    "vectors": "word vectors",
}


def parse_kinds(text: str, *, flag: str) -> tuple[str, ...]:
    """The kinds of a list such as "entities,pos", each once, in the order of `KINDS`. flag: the option, for the message.

    Raises UsageError.
    """
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in KINDS:
            close = get_close_matches(name, KINDS, n=1)
            remedy = f"did you mean {close[0]}? There are {', '.join(KINDS)}" if close else f"there are {', '.join(KINDS)}"
            raise UsageError(f"{flag} {text}: {name!r} is no kind of annotation", remedy)
    return tuple(kind for kind in KINDS if kind in asked)


def spoken(kinds: Sequence[str], last: str = "and") -> str:
    """Kinds in words: "lemmas", "parts of speech and lemmas". last: the word before the last of several."""
    names = [NAMES[kind] for kind in kinds]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
