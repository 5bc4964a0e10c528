"""Running a pipeline over texts of any length, in pieces and batches, and what comes out as `Doc.to_json` has it.

Offsets are Python's: code points from the beginning of the whole text. JavaScript, Java and C# count UTF-16 units instead,
of which an emoji has two.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from openllama_cli.annotation.kinds import TOKEN_KINDS
from openllama_cli.annotation.pieces import cut
from openllama_cli.annotation.pipeline import Pipeline, noted
from openllama_cli.errors import OlcError

# Code points worked on at a time. While it runs, a parser or entity recognizer needs some kilobytes for each.
PIECE = 20_000
# SudachiPy takes 49,149 bytes; a code point has 4 at most.
_JAPANESE_PIECE = 12_000
_DECIMALS = 6
_TOKEN_KEYS = {"pos": ("tag", "pos", "morph"), "lemma": ("lemma",), "dependencies": ("dep", "head")}


@dataclass
class Piece:
    """Annotations of a part of a text; every offset and token id counts from the beginning of the whole text.

    text: which of the texts it belongs to. start: its first code point. last: whether the text ends with it.
    tokens, ents, sents, cats, spans: as in `Doc.to_json`; `vector` is added to tokens where vectors were asked for, None for
    a word without one. has: the kinds that the pipeline gave.
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


def annotate(pipeline: Pipeline, texts: Iterable[str], kinds: Sequence[str]) -> Iterator[Piece]:
    """Annotate texts; yields their pieces in order, at least one for each text.

    A text up to `PIECE` code points (12,000 in Japanese) is one piece, just as spaCy would take it; a longer one is cut
    at paragraphs or sentences, and of no more than that much text the working memory is held at once. The whole pipeline
    runs whatever the kinds are (an entity recognizer may look at sentences), so the kinds change what is told, not what is
    found.

    Raises OlcError for a pipeline that fails, and for one whose tokenizer changes the text, as offsets would be wrong.
    """
    most = min(_JAPANESE_PIECE if pipeline.nlp.lang == "ja" else PIECE, pipeline.nlp.max_length)
    tokens_before = 0
    keys: tuple[str, ...] = ()
    for group in _groups(_all_pieces(texts, most)):
        for (number, start, part, last), raw, has in zip(group, *_run(pipeline, group, kinds), strict=True):
            if start == 0:
                tokens_before, keys = 0, ()
            piece = Piece(number, start, last, _tokens(raw["tokens"], start, tokens_before, kinds, keys), has=has)
            piece.ents = _shifted(raw.get("ents", ()), start) if "entities" in kinds else []
            piece.sents = _shifted(raw.get("sents", ()), start)
            piece.cats = raw.get("cats", {})
            piece.spans = {name: _shifted(spans, start) for name, spans in raw.get("spans", {}).items()}
            tokens_before += len(piece.tokens)
            keys = tuple(piece.tokens[0]) if part.strip() else keys
            yield piece


def document(text: str, pieces: Sequence[Piece], kinds: Sequence[str]) -> dict[str, Any]:
    """The pieces of one text in the shape of `Doc.to_json`: text, ents, sents, tokens (and cats and spans, where there are
    any), so that `Doc.from_json` takes it. What the pipeline does not give is not there.
    """
    found: dict[str, Any] = {"text": text}
    if has(pieces, "entities") and "entities" in kinds:
        found["ents"] = [entity for piece in pieces for entity in piece.ents]
    found |= rest(pieces, kinds)
    found["tokens"] = [token for piece in pieces for token in piece.tokens]
    return found


def rest(pieces: Sequence[Piece], kinds: Sequence[str]) -> dict[str, Any]:
    """The part of a document that is neither text, entities nor tokens: sentences, categories, spans."""
    found: dict[str, Any] = {}
    if TOKEN_KINDS & set(kinds) and any(piece.sents for piece in pieces):
        found["sents"] = [sentence for piece in pieces for sentence in piece.sents]
    # Categories are of a whole text: those of its pieces cannot be made into one.
    if len(pieces) == 1 and pieces[0].cats:
        found["cats"] = pieces[0].cats
    names = list(dict.fromkeys(chain.from_iterable(piece.spans for piece in pieces)))
    if names:
        found["spans"] = {name: [span for piece in pieces for span in piece.spans.get(name, [])] for name in names}
    return found


def has(pieces: Iterable[Piece], kind: str) -> bool:
    """Whether the pipeline gave a kind, for any of the pieces."""
    return any(kind in piece.has for piece in pieces)


def lacking(pieces: Sequence[Piece], kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds that were asked for and that the pipeline does not give; none for texts without a token."""
    return tuple(kind for kind in kinds if not has(pieces, kind)) if any(piece.tokens for piece in pieces) else ()


_Part = tuple[int, int, str, bool]


def _all_pieces(texts: Iterable[str], most: int) -> Iterator[_Part]:
    for number, text in enumerate(texts):
        for start, part in cut(text, most):
            yield number, start, part, start + len(part) == len(text)


def _groups(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """As many pieces together as make up one long one: spaCy is faster on batches, and holds one batch at a time."""
    group: list[_Part] = []
    characters = 0
    for part in parts:
        if group and characters + len(part[2]) > PIECE:
            yield group
            group, characters = [], 0
        group.append(part)
        characters += len(part[2])
    if group:
        yield group


def _run(pipeline: Pipeline, group: Sequence[_Part], kinds: Sequence[str]) -> tuple[list[dict[str, Any]], list[frozenset[str]]]:
    """`Doc.to_json` of each piece, offsets from its own beginning, and what kinds it has."""
    raw, given = [], []
    nlp = pipeline.nlp
    # The zone gives back the words that the vocabulary learnt from these texts; no Doc may be used behind it.
    with noted(pipeline.notes), nlp.memory_zone():
        try:
            for (_, _, part, _), doc in zip(group, nlp.pipe([part[2] for part in group], batch_size=len(group)), strict=True):
                if doc.text != part:
                    raise OlcError(
                        f"the tokenizer of {pipeline.name} changes the text, so that offsets would be wrong",
                        "use a pipeline whose doc.text is the text",
                        code="pipeline",
                    )
                found = doc.to_json()
                if "vectors" in kinds and pipeline.has_vectors:
                    for token, entry in zip(doc, found["tokens"], strict=True):
                        entry["vector"] = _vector(token)
                raw.append(found)
                given.append(_given(pipeline, doc))
        except OlcError:
            raise
        except Exception as error:
            # Components are other people's code: whatever they raise is about them and the text.
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OlcError(
                f"{pipeline.name} failed on the text: {line}", "try another --pipeline", code="annotation_failed"
            ) from error
    return raw, given


def _given(pipeline: Pipeline, doc: Any) -> frozenset[str]:
    if not len(doc):
        return frozenset()  # spaCy says of an empty text that it has everything
    attributes = {"pos": ("POS", "TAG"), "lemma": ("LEMMA",), "entities": ("ENT_IOB",), "dependencies": ("DEP",)}
    found = {kind for kind, names in attributes.items() if any(doc.has_annotation(name) for name in names)}
    return frozenset(found | {"tokens"} | ({"vectors"} if pipeline.has_vectors else set()))


def _vector(token: Any) -> list[float] | None:
    """A word's vector, rounded; None for one that the table does not have, for which spaCy gives zeros."""
    if not token.has_vector:
        return None
    return [round(float(value), _DECIMALS) for value in token.vector.tolist()]


def _tokens(
    raw: Sequence[dict[str, Any]], start: int, before: int, kinds: Sequence[str], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Tokens counted from the beginning of the text, without what was not asked for.

    keys: what tokens of earlier pieces had; a token without gets spaCy's empty value, as `Doc.to_json` would have it.
    """
    unwanted = {name for kind, names in _TOKEN_KEYS.items() if kind not in kinds for name in names}
    tokens = []
    for entry in raw:
        token = {name: value for name, value in entry.items() if name not in unwanted}
        token["id"] += before
        token["start"] += start
        token["end"] += start
        if "head" in token:
            token["head"] += before
        for name in keys:
            token.setdefault(name, token["id"] if name == "head" else None if name == "vector" else "")
        tokens.append(token)
    return tokens


def _shifted(spans: Iterable[dict[str, Any]], start: int) -> list[dict[str, Any]]:
    return [{**span, "start": span["start"] + start, "end": span["end"] + start} for span in spans]
