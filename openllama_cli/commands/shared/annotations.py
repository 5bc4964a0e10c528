"""Annotations as three commands need them: which pipeline, what it lacks, and how pieces of text become lines and trees."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.annotation.kinds import DEFAULT_KINDS, NAMES, TOKEN_KINDS, spoken
from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.errors import OlcError
from openllama_cli.terminal.streams import notice

if TYPE_CHECKING:
    from openllama_cli.annotation.annotate import Piece
    from openllama_cli.annotation.completions import Annotated
    from openllama_cli.annotation.pipeline import Pipeline
    from openllama_cli.terminal.views.annotations import AnnotationWriter


Command = Callable[..., Any]


@dataclass(frozen=True)
class PipelineOptions:
    """--pipeline and --lang as given."""

    pipeline: str | None
    language: str | None

    def open(self) -> "Pipeline":
        """Load it, or the blank one of the language, and say which. Raises OlcError."""
        # Not at the top, nor spaCy before the name has been looked at: help and usage errors come first.
        from openllama_cli.annotation.find import find_pipeline
        from openllama_cli.annotation.pipeline import open_pipeline

        pipeline = open_pipeline(find_pipeline(self.pipeline, self.language))
        if pipeline.trained and self.pipeline is None:
            notice(f"olc: annotated with {pipeline.name}")
        tell_notes(pipeline)
        return pipeline

    @property
    def given(self) -> str | None:
        """The first of the options that was given."""
        return "--pipeline" if self.pipeline is not None else "--lang" if self.language is not None else None


def pipeline_options(function: Command) -> Command:
    """Add --pipeline and --lang; the command receives them as `chosen: PipelineOptions`."""

    @click.option(
        "--pipeline",
        metavar="NAME|PATH",
        help="A spaCy pipeline, installed or in a folder. [an installed one]",
        shell_complete=suggest.folders,
    )
    @click.option("--lang", metavar="CODE", help="The text's language, without --pipeline: de, ja, …, xx for any. [en]")
    @functools.wraps(function)
    def wrapper(*args: Any, pipeline: str | None, lang: str | None, **rest: Any) -> Any:
        return function(*args, chosen=PipelineOptions(pipeline, lang), **rest)

    return wrapper


def tell_notes(pipeline: "Pipeline") -> None:
    """What the pipeline and spaCy had to say, each once."""
    while pipeline.notes:
        notice(f"olc: {pipeline.notes.pop(0)}")


def tell_lacking(pipeline: "Pipeline", lacking: Sequence[str], kinds: Sequence[str], *, asked: bool) -> None:
    """Say what the pipeline does not give. asked: whether the kinds were named one by one.

    Raises OlcError (code "not_annotated") where it gives nothing of what was named.
    """
    from openllama_cli.annotation.find import install_command

    if not lacking:
        return
    remedy = "pipelines with vectors end in _md or _lg" if list(lacking) == ["vectors"] and pipeline.trained else ""
    if asked and set(lacking) == set(kinds):
        install = f"name one that has, with --pipeline; to install one: {install_command(pipeline.nlp.lang)}"
        raise OlcError(f"{pipeline.name} gives no {spoken(lacking, 'or')}", remedy or install, code="not_annotated")
    if asked or pipeline.trained:
        notice(f"olc: {pipeline.name} gives no {spoken(lacking, 'or')}{'; ' if remedy else ''}{remedy}")


class PieceView:
    """Shows the pieces of a text, one after another. lacking: the kinds that are not there, and so get no column."""

    def __init__(self, writer: "AnnotationWriter", text: str, kinds: Sequence[str], lacking: Sequence[str]) -> None:
        self._writer, self._text = writer, text
        self._kinds = [kind for kind in kinds if kind not in lacking]
        self._sentences = 0

    def show(self, piece: "Piece") -> None:
        """Write one piece."""
        if not self._writer.terminal:
            self._lines(piece)
            return
        shown = [
            *([self._marked] if "entities" in self._kinds else []),
            *([self._table] if {"tokens", "pos", "lemma", "vectors"} & set(self._kinds) else []),
            *([self._tree] if "dependencies" in self._kinds else []),
        ]
        for number, show in enumerate(shown):
            if number:
                self._writer.blank()
            show(piece)

    def _lines(self, piece: "Piece") -> None:
        if not TOKEN_KINDS & set(self._kinds):
            labels = [(str(e["start"]), str(e["end"]), e["label"], self._text[e["start"] : e["end"]]) for e in piece.ents]
            self._writer.lines(("start", "end", "label", "text"), labels)
            return
        names = [name for kind in ("pos", "lemma", "dependencies") if kind in self._kinds for name in _COLUMNS[kind]]
        extra = [("entity", _entity_column(piece))] if "entities" in self._kinds else []
        if "vectors" in self._kinds:
            extra.append(("vector", [" ".join(map(str, token["vector"] or ())) for token in piece.tokens]))
        sentences = self._sentence_column(piece)
        columns = ("id", "sentence", "start", "end", "token", *names, *(name for name, _ in extra))
        rows = [
            (
                str(token["id"]),
                sentences[place],
                str(token["start"]),
                str(token["end"]),
                self._word(token),
                *(str(token.get(name, "")) for name in names),
                *(cells[place] for _, cells in extra),
            )
            for place, token in enumerate(piece.tokens)
        ]
        self._writer.lines(columns, rows)

    def _marked(self, piece: "Piece") -> None:
        from openllama_cli.annotation.colors import color
        from openllama_cli.terminal.views.annotations import Mark

        end = piece.tokens[-1]["end"] if piece.tokens else piece.start
        marks = [
            Mark(entity["start"] - piece.start, entity["end"] - piece.start, entity["label"], color(entity["label"]))
            for entity in piece.ents
        ]
        self._writer.marked(self._text[piece.start : end], marks)

    def _table(self, piece: "Piece") -> None:
        names = [name for kind in ("pos", "lemma") if kind in self._kinds for name in _COLUMNS[kind] if name != "morph"]
        vectors = "vectors" in self._kinds
        begins = {sentence["start"] for sentence in piece.sents}
        columns = ("start", "token", *names, *(["vector"] * vectors))
        rows: list[tuple[str, ...]] = []
        for token in piece.tokens:
            if rows and token["start"] in begins:
                rows.append(("",) * len(columns))
            if self._word(token).strip():
                cells = (token.get(name, "") for name in names)
                rows.append((str(token["start"]), self._word(token), *cells, *([_norm(token)] * vectors)))
        self._writer.table(columns, rows, right=("start",))

    def _tree(self, piece: "Piece") -> None:
        from openllama_cli.terminal.views.annotations import Node

        first = piece.tokens[0]["id"] if piece.tokens else 0
        self._writer.tree(
            [Node(self._word(t), t.get("dep", ""), t.get("pos", ""), t["head"] - first) for t in piece.tokens if "head" in t]
        )

    def _word(self, token: dict[str, Any]) -> str:
        return self._text[token["start"] : token["end"]]

    def _sentence_column(self, piece: "Piece") -> list[str]:
        begins = {sentence["start"] for sentence in piece.sents}
        cells = []
        for token in piece.tokens:
            self._sentences += token["start"] in begins
            cells.append(str(self._sentences) if self._sentences else "")
        return cells


_COLUMNS = {"pos": ("pos", "tag", "morph"), "lemma": ("lemma",), "dependencies": ("dep", "head")}


def _entity_column(piece: "Piece") -> list[str]:
    """B-LABEL for the first token of an entity, I-LABEL for the others of it."""
    entities = iter(chain(piece.ents, [None]))
    entity = next(entities)
    cells = []
    for token in piece.tokens:
        while entity is not None and entity["end"] <= token["start"]:
            entity = next(entities)
        inside = entity is not None and entity["start"] <= token["start"]
        cells.append(f"{'B' if token['start'] == entity['start'] else 'I'}-{entity['label']}" if entity and inside else "")
    return cells


def _norm(token: dict[str, Any]) -> str:
    vector = token.get("vector")
    return "unknown word" if vector is None else f"{len(vector)} numbers, length {sum(x * x for x in vector) ** 0.5:.3g}"


def completions_json(pipeline: "Pipeline", texts: Sequence[str]) -> dict[str, Any]:
    """The annotations of completions, for the `olc` object of `olc complete --json`."""
    from openllama_cli.annotation.completions import annotate_completions

    found = annotate_completions(pipeline, texts, DEFAULT_KINDS)
    missing = _common_lack(pipeline, found)
    return {
        "annotations": [done.document(DEFAULT_KINDS) for done in found],
        "annotated_with": {**pipeline.identity, "lacks": list(missing)},
    }


def show_completions(pipeline: "Pipeline", texts: Sequence[str]) -> None:
    """The annotations of completions on stderr, where they stay out of the text."""
    from openllama_cli.annotation.completions import annotate_completions
    from openllama_cli.terminal.views.annotations import AnnotationWriter

    found = annotate_completions(pipeline, texts, DEFAULT_KINDS)
    missing = _common_lack(pipeline, found)
    writer = AnnotationWriter("stderr")
    for done in found:
        if done.error is not None:
            raise done.error
        writer.blank()
        view = PieceView(writer, done.text, DEFAULT_KINDS, missing)
        for piece in done.pieces:
            view.show(piece)


def _common_lack(pipeline: "Pipeline", found: "Sequence[Annotated]") -> tuple[str, ...]:
    """What none of the texts was given, and say so."""
    lacks = [done.lacking(DEFAULT_KINDS) for done in found if any(piece.tokens for piece in done.pieces)]
    missing = tuple(kind for kind in DEFAULT_KINDS if lacks and all(kind in lack for lack in lacks))
    tell_lacking(pipeline, missing, DEFAULT_KINDS, asked=False)
    tell_notes(pipeline)
    return missing


assert set(_COLUMNS) <= set(NAMES)
