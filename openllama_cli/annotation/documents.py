"""What can be asked of a text and what comes back: kinds of annotation, pieces, documents in the shape of `Doc.to_json`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from openllama_cli.errors import OlcError, UsageError

# In the order in which they are shown, with their names in messages.
NAMES = {
    "tokens": "tokens",
    "pos": "parts of speech",
    "lemma": "lemmas",
    "entities": "named entities",
    "dependencies": "dependencies",
    "vectors": "word vectors",
}
KINDS = tuple(NAMES)
# Vectors are hundreds of numbers per token: only on request.
DEFAULT_KINDS = KINDS[:-1]
# Kinds reported token by token; entities have a list of their own.
TOKEN_KINDS = frozenset(KINDS) - {"entities"}


def parse_kinds(text: str, *, flag: str) -> tuple[str, ...]:
    """The kinds in a list such as "entities,pos", each once, in the order of `KINDS`. flag: the option, for the message.

    Raises UsageError.
    """
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in KINDS:
            from difflib import get_close_matches

            close = get_close_matches(name, KINDS, n=1)
            guess = f"did you mean {close[0]}? " if close else ""
            raise UsageError(f"{flag} {text}: {name!r} is not a kind of annotation", f"{guess}use any of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in asked)


@dataclass
class Piece:
    """Annotations of part of a text; every offset and token id counts from the beginning of the whole text.

    text: index of the text it belongs to. start: its first code point. last: whether the text ends with it.
    tokens, ents, sents, cats, spans: as in `Doc.to_json`; tokens have a `vector` where vectors were requested, None for a word
    without one. has: the kinds that the pipeline provided.
    """

    text: int
    start: int
    last: bool
    tokens: list[dict[str, Any]]
    ents: list[dict[str, Any]] = field(default_factory=list)
    sents: list[dict[str, Any]] = field(default_factory=list)
    cats: dict[str, float] = field(default_factory=dict)
    spans: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    has: frozenset[str] = frozenset()


def spans(pieces: Sequence[Piece], kinds: Sequence[str]) -> dict[str, Any]:
    """The part of a document that is neither text nor tokens: entities, sentences, categories, spans."""
    found: dict[str, Any] = {}
    if "entities" in kinds and any("entities" in piece.has for piece in pieces):
        found["ents"] = [entity for piece in pieces for entity in piece.ents]
    if TOKEN_KINDS & set(kinds) and any(piece.sents for piece in pieces):
        found["sents"] = [sentence for piece in pieces for sentence in piece.sents]
    # Categories describe a whole text: those of its pieces cannot be combined.
    if len(pieces) == 1 and pieces[0].cats:
        found["cats"] = pieces[0].cats
    names = list(dict.fromkeys(chain.from_iterable(piece.spans for piece in pieces)))
    if names:
        found["spans"] = {name: [span for piece in pieces for span in piece.spans.get(name, [])] for name in names}
    return found


def lacking(pieces: Iterable[Piece], kinds: Sequence[str]) -> tuple[str, ...]:
    """The requested kinds that the pipeline does not provide; none for texts without tokens."""
    having = [piece.has for piece in pieces if piece.tokens]
    return tuple(kind for kind in kinds if having and not any(kind in has for has in having))


@dataclass(frozen=True)
class Annotated:
    """A text and its pieces. error: why the pipeline failed on it, in which case it has no pieces."""

    text: str
    pieces: Sequence[Piece]
    error: OlcError | None = None

    def document(self, kinds: Sequence[str]) -> dict[str, Any]:
        """In the shape of `Doc.to_json`, which `Doc.from_json` accepts; {"error": {"code", "message"}} if the pipeline failed.

        It has text, ents, sents, cats, spans and tokens, without those that the pipeline does not provide.
        """
        if self.error is not None:
            return {"error": {"code": self.error.code, "message": self.error.cause}}
        tokens = [token for piece in self.pieces for token in piece.tokens]
        return {"text": self.text, **spans(self.pieces, kinds), "tokens": tokens}
