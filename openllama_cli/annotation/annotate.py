"""Running a pipeline over texts of any length, in pieces and batches, and comparing two texts.

Offsets are Python's: code points from the beginning of the whole text. JavaScript, Java and C# count UTF-16 units instead,
two for an emoji.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from openllama_cli.annotation.documents import TOKEN_KINDS, Annotated, Piece
from openllama_cli.annotation.pipeline import Pipeline, noted
from openllama_cli.errors import OlcError, UsageError, first_line

# Code points processed at a time. While it runs, a parser or entity recognizer needs some kilobytes for each.
PIECE = 20_000
# SudachiPy accepts 49,149 bytes; a code point has at most 4.
_JAPANESE_PIECE = 12_000
_DECIMALS = 6
_TOKEN_KEYS = {"pos": ("tag", "pos", "morph"), "lemma": ("lemma",), "dependencies": ("dep", "head")}
_PARAGRAPH = re.compile(r"\n\s*\n\s*")
# The danda ends Hindi sentences; Japanese puts no space after its full stop.
_SENTENCE = re.compile(r"[.!?…।॥][\"'”’»)\]]*\s+|[。！？｡][」』）]*\s*")
_LINE = re.compile(r"\n\s*")
_SPACE = re.compile(r"\s+")
_ZWJ = "\u200d"


def annotate(pipeline: Pipeline, texts: Iterable[str], kinds: Sequence[str]) -> Iterator[Piece]:
    """Annotate texts; yields their pieces in order, at least one for each text.

    A text of up to `PIECE` code points (12,000 in Japanese) is one piece, as spaCy itself would process it; a longer one is
    cut at paragraphs or sentences, which bounds the working memory. The whole pipeline runs whatever the kinds are (an entity
    recognizer may use sentences), so the kinds change what is reported, not what is found.

    Raises OlcError for a pipeline that fails, and for one whose tokenizer changes the text, since offsets would be wrong.
    """
    most = min(_JAPANESE_PIECE if pipeline.nlp.lang == "ja" else PIECE, pipeline.nlp.max_length)
    tokens_before = 0
    keys: tuple[str, ...] = ()
    for group in _groups(texts, most):
        for (number, start, part, last), (raw, has) in zip(group, _run(pipeline, group, kinds), strict=True):
            if start == 0:
                tokens_before, keys = 0, ()
            tokens = _tokens(raw["tokens"], start, tokens_before, kinds, keys)
            tokens_before += len(tokens)
            keys = tuple(tokens[0]) if part.strip() else keys
            yield Piece(
                number,
                start,
                last,
                tokens,
                ents=_shifted(raw.get("ents", ()), start) if "entities" in kinds else [],
                sents=_shifted(raw.get("sents", ()), start),
                cats=raw.get("cats", {}),
                spans={name: _shifted(spans, start) for name, spans in raw.get("spans", {}).items()},
                has=has,
            )


def annotate_completions(pipeline: Pipeline, texts: Sequence[str], kinds: Sequence[str]) -> list[Annotated]:
    """Annotate texts together. One on which the pipeline fails carries its error without affecting the others."""
    found: list[list[Piece]] = [[] for _ in texts]
    try:
        for piece in annotate(pipeline, texts, kinds):
            found[piece.text].append(piece)
    except OlcError as error:
        if len(texts) == 1:
            return [Annotated(texts[0], (), error)]
        return [done for text in texts for done in annotate_completions(pipeline, [text], kinds)]
    return [Annotated(text, tuple(pieces)) for text, pieces in zip(texts, found, strict=True)]


def annotate_rows(pipeline: Pipeline, texts: Sequence[str], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """The annotations of rows of a batch: `Doc.to_json` without the text, which the row has already, and without tokens
    where no kind was requested that is reported by token. A text on which the pipeline fails has an error instead.
    """
    unwanted = {"text"} if TOKEN_KINDS & set(kinds) else {"text", "tokens"}
    rows = (done.document(kinds) for done in annotate_completions(pipeline, texts, kinds))
    return [{name: value for name, value in row.items() if name not in unwanted} for row in rows]


def similarity(pipeline: Pipeline, a: str, b: str) -> tuple[float, list[str]]:
    """Compare two texts as `Doc.similarity` does: the cosine, between -1 and 1, of the means of their words' vectors;
    and name their words without a vector.

    Raises OlcError (code "no_vectors") where the pipeline has no word vectors, or knows none of the words of a text: spaCy
    would answer with the state of its network, or with 0, which says nothing about similarity. UsageError for a long text.
    """
    for text in (a, b):
        if len(text) > PIECE:
            raise UsageError(f"a text to compare has {len(text)} characters", f"give at most {PIECE}")
    if not pipeline.has_vectors:
        raise OlcError(
            f"{pipeline.name} has no word vectors, so nothing can be compared",
            "use a pipeline that has them, such as: python -m spacy download en_core_web_md",
            code="no_vectors",
        )
    docs = [pipeline.nlp.make_doc(text) for text in (a, b)]
    for doc in docs:
        if not any(token.has_vector for token in doc):
            cause = f"{pipeline.name} has no vector for any word of {doc.text!r}"
            raise OlcError(cause, "compare other words", code="no_vectors")
    # The mean includes the zeros of unknown words, which make it shorter but do not change its direction.
    unknown = dict.fromkeys(token.text for doc in docs for token in doc if not token.has_vector and not token.is_space)
    return round(float(docs[0].similarity(docs[1])), 6), list(unknown)


def cut(text: str, most: int) -> Iterator[tuple[int, str]]:
    """The pieces of a text, in order, with the offset of each in code points; joined they are the text.

    most: code points per piece. A piece ends after a blank line, else after a sentence, a line break or a space in its second
    half, else anywhere except between a character and its marks. An empty text is one empty piece.
    """
    start = 0
    while len(text) - start > most:
        end = _end(text, start, start + most)
        yield start, text[start:end]
        start = end
    yield start, text[start:]


def _end(text: str, start: int, limit: int) -> int:
    """Where the piece that begins at `start` ends, `limit` at the latest."""
    middle = start + (limit - start) // 2
    for pattern in (_PARAGRAPH, _SENTENCE, _LINE, _SPACE):
        # Whitespace may continue past the limit, and cut in two it would be two tokens.
        found = (match.end() for match in pattern.finditer(text, middle, limit))
        ends = [end for end in found if end < limit or not text[limit].isspace()]
        if ends:
            return ends[-1]
    return next((end for end in range(limit, middle, -1) if not _joined(text, end)), limit)


def _joined(text: str, place: int) -> bool:
    """Whether the characters before and at a place belong together: marks, emoji sequences, flags, whitespace."""
    before, after = text[place - 1], text[place]
    if _ZWJ in (before, after) or unicodedata.category(after).startswith("M"):
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or (before.isspace() and after.isspace()):
        return True
    return all("\U0001f1e6" <= character <= "\U0001f1ff" for character in (before, after))


# Which text, its offset there, the text of the piece, whether it is the last one.
_Part = tuple[int, int, str, bool]


def _groups(texts: Iterable[str], most: int) -> Iterator[list[_Part]]:
    """Pieces that together are as long as one long piece: spaCy is faster on batches, and holds one batch at a time."""
    group: list[_Part] = []
    characters = 0
    for number, text in enumerate(texts):
        for start, part in cut(text, most):
            if group and characters + len(part) > PIECE:
                yield group
                group, characters = [], 0
            group.append((number, start, part, start + len(part) == len(text)))
            characters += len(part)
    if group:
        yield group


def _run(pipeline: Pipeline, group: Sequence[_Part], kinds: Sequence[str]) -> list[tuple[dict[str, Any], frozenset[str]]]:
    """For each piece its `Doc.to_json`, offsets from its own beginning, and the kinds that it has."""
    results = []
    nlp = pipeline.nlp
    # The zone frees the words that the vocabulary learned from these texts; no Doc may be used after it.
    with noted(pipeline.notes), nlp.memory_zone():
        try:
            for (_, _, part, _), doc in zip(group, nlp.pipe([part[2] for part in group], batch_size=len(group)), strict=True):
                if doc.text != part:
                    cause = f"the tokenizer of {pipeline.name} changes the text, so offsets would be wrong"
                    raise OlcError(cause, "use a pipeline that keeps the text unchanged", code="pipeline")
                raw = doc.to_json()
                if "vectors" in kinds and pipeline.has_vectors:
                    for token, entry in zip(doc, raw["tokens"], strict=True):
                        # None for a word that the table lacks, for which spaCy gives zeros.
                        vector = token.vector.tolist() if token.has_vector else None
                        entry["vector"] = vector and [round(value, _DECIMALS) for value in vector]
                results.append((raw, _provided(pipeline, doc)))
        except OlcError:
            raise
        except Exception as error:
            # Components are other people's code: whatever they raise is about them and the text.
            cause = f"{pipeline.name} failed on the text: {first_line(error)}"
            raise OlcError(cause, "try another --pipeline", code="annotation_failed") from error
    return results


def _provided(pipeline: Pipeline, doc: Any) -> frozenset[str]:
    if not len(doc):
        return frozenset()  # spaCy says of an empty text that it has everything
    attributes = {"pos": ("POS", "TAG"), "lemma": ("LEMMA",), "entities": ("ENT_IOB",), "dependencies": ("DEP",)}
    found = {kind for kind, names in attributes.items() if any(doc.has_annotation(name) for name in names)}
    return frozenset(found | {"tokens"} | ({"vectors"} if pipeline.has_vectors else set()))


def _tokens(
    raw: Sequence[dict[str, Any]], start: int, before: int, kinds: Sequence[str], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """Tokens counted from the beginning of the text, without the kinds that were not requested.

    keys: what tokens of earlier pieces had; a token that lacks one gets spaCy's empty value, as in `Doc.to_json`.
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
