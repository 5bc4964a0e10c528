"""spaCy annotations as `annotate`, `complete` and `batch` need them: which pipeline, what it lacks, and how they are shown."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.annotation.documents import DEFAULT_KINDS, NAMES
from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.errors import OlcError
from openllama_cli.terminal.streams import note

if TYPE_CHECKING:
    from openllama_cli.annotation.documents import Annotated
    from openllama_cli.annotation.pipeline import Pipeline
    from openllama_cli.terminal.views.annotations import AnnotationView

Command = Callable[..., Any]


@dataclass(frozen=True)
class PipelineOptions:
    """--pipeline and --lang as given."""

    pipeline: str | None
    language: str | None

    def open(self) -> "Pipeline":
        """Load the pipeline, or the blank one of the language, and say which. Raises OlcError."""
        from openllama_cli.terminal.progress import working

        with working("loading spaCy"):
            from openllama_cli.annotation.pipeline import find_pipeline, open_pipeline

            pipeline = open_pipeline(find_pipeline(self.pipeline, self.language))
        if pipeline.trained and self.pipeline is None:
            note(f"annotated with {pipeline.name}")
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
        show_default="an installed one for --lang",
        help="spaCy pipeline: an installed package or a folder.",
        shell_complete=suggest.folders,
    )
    @click.option("--lang", metavar="CODE", show_default="en", help="Language of the text, such as de or ja; xx for any.")
    @functools.wraps(function)
    def wrapper(*args: Any, pipeline: str | None, lang: str | None, **rest: Any) -> Any:
        return function(*args, chosen=PipelineOptions(pipeline, lang), **rest)

    return wrapper


def tell_notes(pipeline: "Pipeline") -> None:
    """Print what the pipeline and spaCy reported, each note once."""
    while pipeline.notes:
        note(pipeline.notes.pop(0))


def tell_lacking(pipeline: "Pipeline", lacking: Sequence[str], kinds: Sequence[str], *, asked: bool) -> None:
    """Say which kinds the pipeline does not provide. asked: whether the kinds were requested by name.

    Raises OlcError (code "not_annotated") if it provides nothing of what was requested.
    """
    from openllama_cli.annotation.pipeline import install_command

    if not lacking:
        return
    names = [NAMES[kind] for kind in lacking]
    cause = f"{pipeline.name} gives no {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}"
    remedy = "pipelines with vectors end in _md or _lg" if list(lacking) == ["vectors"] and pipeline.trained else ""
    if asked and set(lacking) == set(kinds):
        other = f"choose another with --pipeline; to install one: {install_command(pipeline.nlp.lang)}"
        raise OlcError(cause, remedy or other, code="not_annotated")
    if asked or pipeline.trained:
        note(f"{cause}; {remedy}" if remedy else cause)


def annotation_view(kinds: Sequence[str], lacking: Sequence[str], *, stderr: bool = False) -> "AnnotationView":
    """A view of the kinds that are there. stderr: for completions, whose text has stdout to itself."""
    from openllama_cli.annotation.pictures import color
    from openllama_cli.terminal.views.annotations import AnnotationView

    return AnnotationView([kind for kind in kinds if kind not in lacking], color, "stderr" if stderr else "stdout")


def completions_json(pipeline: "Pipeline", texts: Sequence[str]) -> dict[str, Any]:
    """The annotations of completions, for the `olc` object of `olc complete --json`."""
    found, missing = _annotate(pipeline, texts)
    return {
        "annotations": [done.document(DEFAULT_KINDS) for done in found],
        "annotated_with": {**pipeline.identity, "lacks": list(missing)},
    }


def show_completions(pipeline: "Pipeline", texts: Sequence[str]) -> None:
    """Show the annotations of completions on stderr. Raises OlcError if the pipeline fails on one."""
    found, missing = _annotate(pipeline, texts)
    view = annotation_view(DEFAULT_KINDS, missing, stderr=True)
    for done in found:
        if done.error is not None:
            raise done.error
        view.blank()
        for piece in done.pieces:
            view.show(done.text, piece.start, piece.tokens, piece.ents, piece.sents)


def _annotate(pipeline: "Pipeline", texts: Sequence[str]) -> "tuple[list[Annotated], tuple[str, ...]]":
    """The annotations of texts, and the kinds that none of them has, after saying so."""
    from openllama_cli.annotation.annotate import annotate_completions
    from openllama_cli.annotation.documents import lacking

    found = annotate_completions(pipeline, texts, DEFAULT_KINDS)
    missing = lacking([piece for done in found for piece in done.pieces], DEFAULT_KINDS)
    tell_lacking(pipeline, missing, DEFAULT_KINDS, asked=False)
    tell_notes(pipeline)
    return found, missing
