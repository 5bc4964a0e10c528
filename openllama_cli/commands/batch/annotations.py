"""`olc batch --annotate`: the pipeline, what a journal has to know of it, and the annotations of rows."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.annotation.kinds import parse_kinds
from openllama_cli.commands.shared.annotations import PipelineOptions, tell_lacking, tell_notes
from openllama_cli.errors import UsageError
from openllama_cli.system.files import file_fingerprint

if TYPE_CHECKING:
    from openllama_cli.annotation.pipeline import Pipeline
    from openllama_cli.batch.output.annotated import AnnotatedResults
    from openllama_cli.batch.output.lines import Results


# A sentence of any language, to see what a pipeline gives before a night's work.
_PROBE = "Berlin 2024."


@dataclass(frozen=True)
class BatchAnnotations:
    """What is asked for, checked as far as that goes without spaCy."""

    kinds: tuple[str, ...]
    chosen: PipelineOptions

    @classmethod
    def parse(cls, kinds: str | None, chosen: PipelineOptions) -> "BatchAnnotations | None":
        """None where nothing is to be annotated. Raises UsageError."""
        if kinds is not None:
            return cls(parse_kinds(kinds, flag="--annotate"), chosen)
        if chosen.given:
            raise UsageError(f"{chosen.given} is for annotations", "add --annotate, such as --annotate entities")
        return None

    def open(self) -> "RowAnnotator":
        """Load the pipeline. Raises OlcError for one that gives nothing of what is asked for."""
        from openllama_cli.annotation.completions import annotate_completions

        pipeline = self.chosen.open()
        probed = annotate_completions(pipeline, [_PROBE], self.kinds)[0]
        tell_lacking(pipeline, probed.lacking(self.kinds), self.kinds, asked=True)
        return RowAnnotator(self.kinds, pipeline)


@dataclass(frozen=True)
class RowAnnotator:
    """Annotates the texts of rows: `AnnotatedResults` calls it."""

    kinds: tuple[str, ...]
    pipeline: "Pipeline"

    def results(self, journal: "Results") -> "AnnotatedResults":
        """What stands between the rows that are finished and the journal."""
        from openllama_cli.batch.output.annotated import AnnotatedResults

        return AnnotatedResults(journal, self)

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        from openllama_cli.annotation.completions import annotate_rows

        rows = annotate_rows(self.pipeline, texts, self.kinds)
        tell_notes(self.pipeline)
        return rows

    @property
    def options(self) -> dict[str, str]:
        """For the journal's header, as options: --annotate and --pipeline. Of a pipeline's files as of a model's."""
        digest = hashlib.sha256(repr(sorted(self.pipeline.identity.items())).encode())
        folder = self.pipeline.folder
        if folder is not None:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                digest.update(repr((str(file.relative_to(folder)), file_fingerprint(file))).encode())
        name = f"{self.pipeline.identity['pipeline']}-{self.pipeline.identity['version']}"
        return {"annotate": ",".join(self.kinds), "pipeline": f"{digest.hexdigest()[:12]}:{name}"}
