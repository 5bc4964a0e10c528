"""`olc annotate`: what spaCy finds in a text."""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.annotation.documents import DEFAULT_KINDS, KINDS, Annotated, lacking, parse_kinds, spans
from openllama_cli.commands.shared.annotations import (
    PipelineOptions,
    annotation_view,
    pipeline_options,
    tell_lacking,
    tell_notes,
)
from openllama_cli.commands.shared.options import file_option, pair_option, svg_option
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.commands.shared.prompt_input import missing, read_prompt
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.models.tokenizer.base import utf8
from openllama_cli.terminal.streams import note, out, out_json, stdin_has_input

if TYPE_CHECKING:
    from openllama_cli.annotation.documents import Piece
    from openllama_cli.annotation.pipeline import Pipeline

EXAMPLES = """\b
Examples:
  olc annotate "The blue whale lives in the Pacific Ocean."
  olc annotate -f notes.txt --only entities --pipeline en_core_web_sm
  olc annotate "Der Wal ist groß." --lang de --json | jq .tokens
  olc annotate "Whales eat krill." --svg tree.svg --pipeline ./my_pipeline
  olc annotate --similar whale dolphin --pipeline en_core_web_md
  olc complete "The largest animal is" | olc annotate --only pos,lemma
"""


@click.command(epilog=EXAMPLES)
@click.argument("text", required=False)
@file_option("Read the text from FILE, byte for byte; - is stdin.")
@click.option("--only", metavar="KINDS", show_default="all except vectors", help=f"Comma-separated: any of {', '.join(KINDS)}.")
@pair_option("--similar", metavar="A B", help="Similarity of two words or sentences, by their word vectors.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in the shape of spaCy's Doc.to_json.")
@svg_option("Save a picture of the dependencies, or of the entities with --only entities.")
@pipeline_options
def command(
    text: str | None,
    file: str | None,
    only: str | None,
    similar: tuple[str, str] | None,
    as_json: bool,
    svg: str | None,
    chosen: PipelineOptions,
) -> None:
    """Show what spaCy finds in TEXT: tokens, parts of speech, lemmas, named entities, dependencies, word vectors.

    Without TEXT, or with -, the text is read from stdin. Nothing is downloaded: without --pipeline, an installed pipeline for
    the language is used, or else a blank one, which finds only tokens and sentences. A pipe gets one line per token, with
    tab-separated columns. Offsets count code points (Python's characters) from 0. Long texts are processed in pieces. spaCy is
    optional: pip install "spacy>=3.8,<4".
    """
    kinds = parse_kinds(only, flag="--only") if only is not None else DEFAULT_KINDS
    if similar is not None:
        if text is not None or file is not None or only is not None or svg is not None:
            raise UsageError("--similar compares the two texts given to it", "leave out TEXT, --file, --only and --svg")
        _compare(chosen, similar, as_json=as_json)
        return
    if svg is not None and only is not None and not {"entities", "dependencies"} & set(kinds):
        raise UsageError(f"--svg draws dependencies or entities, and --only has {','.join(kinds)}", "add one of them to --only")
    if text is None and file is None and not stdin_has_input():
        raise missing("text", 'give it as an argument, such as "Whales eat krill.", or on stdin')
    if svg is not None:
        writable(svg)
    content = read_prompt(text, file, None, (), escape=False).text
    utf8(content)
    pipeline = chosen.open()
    _annotate(pipeline, content, kinds, asked=only is not None, as_json=as_json, svg=svg)
    tell_notes(pipeline)


def _compare(chosen: PipelineOptions, texts: tuple[str, str], *, as_json: bool) -> None:
    from openllama_cli.annotation.annotate import similarity

    for text in texts:
        utf8(text)
    pipeline = chosen.open()
    cosine, unknown = similarity(pipeline, *texts)
    if as_json:
        numbers = {"a": texts[0], "b": texts[1], "cosine": cosine, "unknown": unknown}
        out_json({"similarity": numbers, "olc": pipeline.identity})
    else:
        out(f"{cosine:.4f}\n")
    if unknown:
        note(f"{pipeline.name} has no vector for {', '.join(unknown)}; the other words were compared")
    tell_notes(pipeline)


def _annotate(pipeline: "Pipeline", text: str, kinds: Sequence[str], *, asked: bool, as_json: bool, svg: str | None) -> None:
    from openllama_cli.annotation.annotate import annotate

    # Pictures show parts of speech below the words, whatever was requested.
    pieces = annotate(pipeline, [text], kinds if svg is None else [*kinds, "pos"])
    # The first piece shows what the pipeline provides, before anything is written.
    first = next(pieces)
    absent = lacking([first], kinds)
    tell_lacking(pipeline, absent, kinds, asked=asked)
    if svg is not None:
        _draw(pipeline, text, first, kinds, Path(svg), asked=asked)
    every = chain([first], pieces)
    if as_json:
        _write_json(text, every, kinds, {**pipeline.identity, "lacks": list(absent)})
        return
    view = annotation_view(kinds, absent)
    for piece in every:
        view.show(text, piece.start, piece.tokens, piece.ents, piece.sents)


def _write_json(text: str, pieces: Iterator["Piece"], kinds: Sequence[str], about: dict[str, Any]) -> None:
    """Write `Annotated.document` as it comes, tokens first: they are many, so they are not kept."""
    kept: list[Piece] = []
    out(f'{{"text": {_json(text)}, "tokens": [')
    separator = ""
    for piece in pieces:
        if piece.tokens:
            out(separator + ", ".join(map(_json, piece.tokens)))
            separator = ", "
        piece.tokens = []
        kept.append(piece)
    out("], " + _json({**spans(kept, kinds), "olc": about})[1:] + "\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _draw(pipeline: "Pipeline", text: str, piece: "Piece", kinds: Sequence[str], path: Path, *, asked: bool) -> None:
    """Save the picture: of dependencies where there are any, unless only entities were requested."""
    from openllama_cli.annotation.pictures import MOST_SENTENCES, dependency_svg, entity_svg

    drawable = [kind for kind in ("dependencies", "entities") if kind in kinds and kind in piece.has]
    if not drawable:
        wanted = "dependencies" if asked and "entities" not in kinds else "dependencies and no named entities"
        cause = f"there is nothing to draw: {pipeline.name} gives no {wanted}"
        raise OlcError(cause, "use a trained pipeline: --pipeline NAME", code="not_annotated")
    # Only the first piece: a picture of a long text would be too large for any viewer.
    end = piece.tokens[-1]["end"] if piece.tokens else 0
    limit = "" if piece.last else f", of the first {end} characters only"
    if drawable[0] == "dependencies":
        picture, omitted = dependency_svg(pipeline, Annotated(text[:end], [piece]).document(KINDS))
        limit = f", of the first {MOST_SENTENCES} sentences only" if omitted else limit
    else:
        picture = entity_svg(text[:end], piece.ents)
    save(path, picture)
    note(f"wrote {path}: {drawable[0]}{limit}")
