"""`olc batch`: a file of prompts to a file of completions."""

import contextlib
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from openllama_cli.batch.ray_options import RayOptions, parse_engine
from openllama_cli.batch.readers import FormatName, InputFormat, read_rows
from openllama_cli.batch.rows import RowSettings
from openllama_cli.batch.sizing import auto_rows, cache_bytes_per_position, parse_batch_size
from openllama_cli.batch.spool import spool
from openllama_cli.batch.stopping import GracefulStop
from openllama_cli.commands import suggest
from openllama_cli.commands.annotation_output import PipelineOptions, pipeline_options
from openllama_cli.commands.batch_annotations import BatchAnnotations, RowAnnotator
from openllama_cli.commands.open_model import OpenedModel, load_model, open_model
from openllama_cli.commands.options import escape_option, model_options, sampling_options, template_option
from openllama_cli.commands.prompt_input import unescape_stops
from openllama_cli.errors import OlcError, RowsFailedError, Terminated, UsageError
from openllama_cli.generation.config import SamplingConfig
from openllama_cli.models.parallel import one_process_only
from openllama_cli.models.spec import ModelSpec
from openllama_cli.prompt_templates import PromptTemplate, load_template
from openllama_cli.terminal.batch_progress import BatchProgress
from openllama_cli.terminal.streams import is_terminal, note, notice

if TYPE_CHECKING:
    from openllama_cli.batch.journal import Journal
    from openllama_cli.batch.precheck import InputSummary
    from openllama_cli.batch.ray_engine import RayRunner
    from openllama_cli.batch.runner import Runner
    from openllama_cli.models.load import LoadedModel

EXAMPLES = """\b
Examples:
  olc batch prompts/examples/en.txt -o answers.jsonl -e --stop "\\n\\n"
  olc batch prompts/examples/countries.csv -t qa -o capitals.jsonl
  olc batch requests.jsonl -o answers.jsonl -m 3b-v2 --temperature 0.7
  cat prompts.txt | olc batch - --format txt -o answers.jsonl
  olc batch requests.jsonl -o answers.jsonl --retry-errors
"""


@click.command(epilog=EXAMPLES)
@click.argument("source", metavar="INPUT", shell_complete=suggest.files)
@click.option(
    "-o", "--output", metavar="OUTPUT", help="JSON lines. [INPUT with .completions.jsonl]", shell_complete=suggest.files
)
@click.option(
    "--format",
    "format_name",
    metavar="FORMAT",
    help=f"{'|'.join(get_args(FormatName))} [by INPUT's suffix]",
    shell_complete=suggest.choices(*get_args(FormatName)),
)
@template_option("Fill a prompt template with each row's columns.")
@escape_option("--stop")
@click.option("--batch-size", default="auto", show_default=True, metavar="auto|N", help="Rows side by side.")
@click.option("--retry-errors", is_flag=True, help="Run the rows that failed again, and no others.")
@click.option("--restart", is_flag=True, help="Start over, whatever is there.")
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|ray",
    help="Ray: workers on one machine or many.",
    shell_complete=suggest.choices("local", "ray"),
)
@click.option("--ray-address", metavar="auto|HOST:PORT", help="Join this cluster. [a cluster of its own]")
@click.option("--workers", type=int, metavar="N", help="Ray workers, each with a model. [as many as fit]")
@click.option("--json-progress", is_flag=True, help="Progress as JSON lines on stdout.")
@click.option("--annotate", "annotated", metavar="KINDS", help="Add what spaCy finds: entities,pos,…; see `olc annotate`.")
@pipeline_options
@sampling_options(SamplingConfig())
@model_options
def command(
    source: str,
    output: str | None,
    format_name: Any,
    template: str | None,
    escape: bool,
    batch_size: str,
    retry_errors: bool,
    restart: bool,
    engine: str,
    ray_address: str | None,
    workers: int | None,
    json_progress: bool,
    annotated: str | None,
    chosen: PipelineOptions,
    given: dict[str, Any],
    spec: ModelSpec,
) -> None:
    """Complete every prompt of INPUT into OUTPUT.

    INPUT is .txt (a prompt per line), .jsonl (prompts or template variables, custom_id, sampling options; or OpenAI batch
    lines), .csv or .tsv with a header; - is stdin. Finished rows are journalled beside OUTPUT, which appears when it is
    whole: the same command again resumes after a crash, and does nothing once all is done. Rows that sample without a seed
    use --seed, else 0.
    """
    rows_wanted = parse_batch_size(batch_size)
    ray_options = parse_engine(engine, ray_address, workers)
    if ray_options is not None:
        one_process_only("--engine ray")
    annotations = BatchAnnotations.parse(annotated, chosen)
    if retry_errors and restart:
        raise UsageError("--retry-errors and --restart contradict each other", "give one of them")
    if escape:
        unescape_stops(given)
    prompt_template = load_template(template) if template is not None else None
    settings = RowSettings(prompt_template, _defaults(given, prompt_template))
    from_stdin = source == "-"
    if from_stdin and (output is None or format_name is None):
        raise UsageError("INPUT is stdin", "say what it is and where the answers go: --format jsonl -o answers.jsonl")
    # Not before the options are known to be right: a usage error is to be as quick as help.
    from openllama_cli.batch.lock import output_lock
    from openllama_cli.batch.output import check_output, open_journal, write_output
    from openllama_cli.batch.precheck import precheck

    fmt = InputFormat(format_name) if format_name is not None else InputFormat.of(Path(source))
    if output == "-":
        raise UsageError("-o - is no file", "OUTPUT appears when it is whole; name a file, and cat it then")
    target = Path(output) if output is not None else Path(source).with_suffix(".completions.jsonl")
    files = check_output(target, None if from_stdin else Path(source), restart=restart)
    with output_lock(files.output), GracefulStop(notice) as stop:
        path = files.spool if from_stdin else Path(source)
        if from_stdin:
            _keep_stdin(path, restart=restart)
        summary = precheck(path, fmt, settings)
        opened = open_model(spec)
        header = _header(opened, spec, settings, prompt_template, fmt, summary)
        annotator = annotations.open() if annotations is not None else None
        if annotator is not None:
            header["options"] |= annotator.options
        with open_journal(files, header, summary.rows, retry_errors=retry_errors, restart=restart) as journal:
            if journal.complete:
                files.spool.unlink(missing_ok=True)
                notice(f"olc: {target} is complete already: {summary.rows} rows, none failed")
                return
            spooled = path if from_stdin else None
            batch = _Batch(journal, summary, stop, spooled=spooled, as_json=json_progress, annotate=annotator)
            if journal.counts.done < summary.rows:
                digest = hashlib.sha256()
                rows = read_rows(path, fmt, settings, skip=journal.done, on_bytes=digest.update)
                if ray_options is None:
                    batch.run(batch.runner(opened, spec, settings, rows_wanted), rows)
                else:
                    with batch.ray_runner(opened, spec, settings, rows_wanted, ray_options, header) as runner:
                        batch.run(runner, rows)
                if digest.hexdigest() != summary.sha256:
                    raise OlcError(
                        f"{source} was changed while it was being worked on",
                        "rows may be of either; start over with --restart",
                        code="input_changed",
                    )
            write_output(journal, files.output)
            files.spool.unlink(missing_ok=True)
            batch.report(target)


def _defaults(given: Mapping[str, Any], template: PromptTemplate | None) -> dict[str, Any]:
    """The options that hold for every row: a template's beneath those that were given."""
    defaults = dict(given)
    if template is not None:
        defaults["stop"] = (*given.get("stop", ()), *template.stop)
        if template.max_tokens is not None:
            defaults.setdefault("max_tokens", template.max_tokens)
    return defaults


def _header(
    opened: OpenedModel,
    spec: ModelSpec,
    settings: RowSettings,
    template: PromptTemplate | None,
    fmt: InputFormat,
    summary: "InputSummary",
) -> dict[str, Any]:
    """All that the results depend on; a journal is resumed under the same header only."""
    from openllama_cli.batch.fingerprint import model_fingerprint

    sampling = settings.sampling
    options = {
        "dtype": spec.dtype,
        "device": spec.device,
        "quantize": spec.quantize,
        "max_tokens": sampling.max_tokens,
        # As given, not as it came out: it decides for rows that have options of their own.
        "temperature": settings.defaults.get("temperature"),
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }
    checkpoint = opened.checkpoint
    return {
        "input": {"sha256": summary.sha256, "format": fmt.name},
        "model": model_fingerprint([*checkpoint.files, *_config_files(opened)], revision=opened.folder.revision),
        "tokenizer": {"name": opened.tokenizer.path.name, "sha256": opened.tokenizer.sha256},
        "template": None if template is None else _template(template),
        "options": options,
    }


def _config_files(opened: OpenedModel) -> list[Path]:
    names = ("config.json", "generation_config.json", "params.json")
    return [path for name in names if (path := opened.checkpoint.path / name).is_file()]


def _template(template: PromptTemplate) -> dict[str, Any]:
    content = json.dumps([template.template, dict(template.defaults)], sort_keys=True, default=str)
    return {"name": template.name, "sha256": hashlib.sha256(content.encode()).hexdigest()}


class _Batch:
    """One run: the journal that it fills, and what it tells. spooled: the copy of stdin, if that is the input.
    annotate: annotates the rows, if that is asked for.
    """

    def __init__(
        self,
        journal: "Journal",
        summary: "InputSummary",
        stop: GracefulStop,
        *,
        spooled: Path | None,
        as_json: bool,
        annotate: "RowAnnotator | None",
    ) -> None:
        self._journal, self._summary, self._stop = journal, summary, stop
        self._annotated = annotate.results(journal) if annotate is not None else None
        self._spooled, self._as_json = spooled, as_json
        self._spoken = ""
        if journal.counts.done:
            notice(f"olc: resuming: {journal.counts.done} of {summary.rows} rows are done")
        if journal.damaged:
            notice(f"olc: {journal.damaged} lines of the journal were damaged; their rows are done again")

    def runner(self, opened: OpenedModel, spec: ModelSpec, settings: RowSettings, wanted: int | None) -> "Runner":
        """Load the model, and decide how many rows run side by side."""
        # First: it settles how threads wait, which torch reads once, when it is imported.
        loaded = load_model(opened, spec)

        from openllama_cli.batch.runner import Runner
        from openllama_cli.generation.prefix import PrefixCache
        from openllama_cli.generation.stream import make_engine

        return Runner(
            # Prefixes anew with every loop: after memory ran out, old ones would fill it.
            engine=lambda rows: make_engine(loaded, max_rows=rows, prefixes=PrefixCache(), notice=note),
            tokenizer=loaded.tokenizer,
            context=opened.checkpoint.shape.context,
            vocabulary=opened.checkpoint.shape.vocab,
            model=opened.folder.name,
            results=self._annotated or self._journal,
            max_rows=wanted or self._auto_rows(loaded, opened, settings),
            stopping=lambda: self._stop.requested,
            notice=note,
        )

    def ray_runner(
        self,
        opened: OpenedModel,
        spec: ModelSpec,
        settings: RowSettings,
        wanted: int | None,
        options: RayOptions,
        header: Mapping[str, Any],
    ) -> "contextlib.AbstractContextManager[RayRunner]":
        """Workers in place of a model here, while the context lasts."""
        from openllama_cli.batch.ray_run import RayModel, open_runner

        return open_runner(
            options,
            RayModel(opened.folder, opened.checkpoint, spec, header["model"], opened.tokenizer.sha256),
            batch_size=wanted,
            positions=self._longest_row(settings),
            rows=self._summary.rows - self._journal.counts.done,
            results=self._annotated or self._journal,
            stopping=lambda: self._stop.requested,
            notice=note,
        )

    def _longest_row(self, settings: RowSettings) -> int:
        """Positions of the longest row, at most. A token is at least a byte of the prompt."""
        longest = max(self._summary.longest_prompt_bytes + 1, self._summary.longest_prompt_tokens)
        return longest + settings.sampling.max_tokens

    def _auto_rows(self, loaded: "LoadedModel", opened: OpenedModel, settings: RowSettings) -> int:
        from openllama_cli.models.placement import free_bytes

        shape = opened.checkpoint.shape
        positions = min(shape.context, self._longest_row(settings))
        per_position = cache_bytes_per_position(shape.layers, shape.kv_heads, shape.head_dim, loaded.dtype.itemsize)
        on_cpu = loaded.input_device.type == "cpu"
        return auto_rows(free_bytes(loaded.input_device), per_position, positions, on_cpu=on_cpu)

    def run(self, runner: "Runner | RayRunner", rows: Any) -> None:
        """Work through the rows that are not done. A signal ends it with what it takes to resume said."""
        shown = BatchProgress(self._summary.rows, self._journal.counts.done, as_json=self._as_json)
        whole = False
        try:
            for progress in runner.run(rows):
                shown.update(progress.rows, progress.failed, progress.tokens)
                if self._annotated is not None:
                    self._annotated.flush_if_due()
                self._journal.sync_if_due()
            if self._annotated is not None:
                self._annotated.flush()
            self._stop.finish()
            whole = True
        except (KeyboardInterrupt, Terminated):
            shown.finish(done=False)
            with contextlib.suppress(OlcError):  # The interrupt is what counts now; opening it again finds what is there.
                if self._annotated is not None:
                    self._annotated.flush()
                self._journal.close()
            done = self._journal.counts.done
            again = _same_command(self._spooled)
            notice(f"olc: stopped with {done} of {self._summary.rows} rows done; to go on:\n  {again}")
            raise
        finally:
            shown.finish(done=whole)
        seconds, counts = shown.seconds, runner.progress
        self._spoken = f"{counts.rows} rows in {seconds:.1f} s, {shown.tokens_per_s:.0f} tokens/s"

    def report(self, target: Path) -> None:
        """The end: what was written; raises RowsFailedError if rows failed."""
        counts = self._journal.counts
        said = f"olc: wrote {target}: {self._summary.rows} row{'s' * (self._summary.rows != 1)}, {counts.failed} failed"
        notice(f"{said} ({self._spoken})" if self._spoken else said)
        if counts.failed:
            by_code = ", ".join(f"{count} {code}" for code, count in sorted(counts.by_code.items()))
            raise RowsFailedError(
                f"{counts.failed} of {self._summary.rows} rows failed: {by_code}",
                f"their lines in {target.name} say why; --retry-errors tries them again, a mended input needs --restart",
            )


def _keep_stdin(path: Path, *, restart: bool) -> None:
    """Copy stdin into a file. Where nothing comes (a terminal, an empty pipe) an interrupted run's copy stays, to go on."""
    if restart:
        path.unlink(missing_ok=True)
    if sys.stdin is None or is_terminal(sys.stdin):
        if sys.stdin is None and not path.exists():
            raise UsageError("INPUT is stdin, and that is closed", "give a file, or pipe the rows in")
        if path.exists():
            return
    spool(sys.stdin.buffer, path)


def _same_command(spooled: Path | None) -> str:
    """The command line that was typed, without --restart, which would throw away what is done. spooled: the copy of stdin."""
    command = shlex.join(["olc", *(argument for argument in sys.argv[1:] if argument != "--restart")])
    return command if spooled is None else f"{command} < {shlex.quote(str(spooled))}"
