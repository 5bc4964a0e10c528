"""Annotations of completions, as `olc complete` and `olc batch` add them to what they write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openllama_cli.annotation.annotate import Piece, annotate, document, lacking
from openllama_cli.annotation.kinds import TOKEN_KINDS
from openllama_cli.annotation.pipeline import Pipeline
from openllama_cli.errors import OlcError


@dataclass(frozen=True)
class Annotated:
    """A text and its pieces. error: why the pipeline failed on it, in which case it has none."""

    text: str
    pieces: tuple[Piece, ...]
    error: OlcError | None = None

    def document(self, kinds: Sequence[str]) -> dict[str, Any]:
        """In the shape of `Doc.to_json`; {"error": {"code", "message"}} where the pipeline failed."""
        if self.error is not None:
            return {"error": {"code": self.error.code, "message": self.error.cause}}
        return document(self.text, self.pieces, kinds)

    def lacking(self, kinds: Sequence[str]) -> tuple[str, ...]:
        """The kinds that the pipeline does not give."""
        return lacking(self.pieces, kinds)


def annotate_completions(pipeline: Pipeline, texts: Sequence[str], kinds: Sequence[str]) -> list[Annotated]:
    """Annotate texts together. One on which the pipeline fails carries its error, and spares the others."""
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
    """What rows of a batch are told about their texts: `Doc.to_json` without the text, which stands beside it, and without
    tokens where nothing was asked for that is told by token. A text on which the pipeline fails has an error instead.
    """
    unwanted = {"text"} if TOKEN_KINDS & set(kinds) else {"text", "tokens"}
    rows = (done.document(kinds) for done in annotate_completions(pipeline, texts, kinds))
    return [{name: value for name, value in row.items() if name not in unwanted} for row in rows]
