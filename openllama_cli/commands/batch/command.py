"""`olc batch`: a file of prompts to a file of completions."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from openllama_cli.batch.input.carry import Carry
from openllama_cli.batch.input.choice_settings import ChoiceSettings
from openllama_cli.batch.input.field_names import MOST_SAMPLES
from openllama_cli.batch.input.lines import check_input
from openllama_cli.batch.input.readers import FormatName, input_format, read_rows
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.batch.input.score_settings import SAMPLING, ScoreSettings
from openllama_cli.batch.ray.options import parse_engine
from openllama_cli.commands.batch.dry_run import DryRun
from openllama_cli.commands.batch.engines import Engine, LocalEngine, fitted_settings, open_engine
from openllama_cli.commands.batch.looks import keep_stdin, peek_rows, show_first_prompt, show_report
from openllama_cli.commands.batch.run import Batch, GracefulStop, RowAnnotator
from openllama_cli.commands.batch.score_options import refuse_beside_score, refuse_texts, score_options
from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.annotations import PipelineOptions, pipeline_options
from openllama_cli.commands.shared.choice_options import ChoiceOptions, check_calibrated, choice_options, sampling_flags
from openllama_cli.commands.shared.few_shot import ExampleOptions, example_options, show_prompt_option, with_template
from openllama_cli.commands.shared.options import (
    GroupedCommand,
    escape_option,
    model_options,
    number_option,
    svg_option,
    template_option,
)
from openllama_cli.commands.shared.prompt_input import missing, unescape_stops
from openllama_cli.commands.shared.sampling.options import sampling_options
from openllama_cli.commands.shared.server import parse_server, server_option
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.generation.decode.config import SamplingConfig, choose_sampling
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.spec import ModelSpec
from openllama_cli.prompt_templates import PromptTemplate, load_template
from openllama_cli.terminal.streams import hint, notice, out

if TYPE_CHECKING:
    from openllama_cli.batch.input.precheck import InputSummary
    from openllama_cli.batch.journal.format import OutputRecord

EXAMPLES = """\b
Examples:
  olc batch prompts/examples/en.txt -o answers.jsonl -e --stop "\\n\\n"
  olc batch prompts/examples/countries.csv -t qa -o capitals.jsonl
  olc batch requests.jsonl -o answers.jsonl -m 3b-v2 --temperature 0.7
  cat prompts.txt | olc batch - --format txt -o answers.jsonl
  olc batch prompts.csv -o answers.csv --carry country
  olc batch prompts.csv -o years.jsonl --regex ' \\d{4}' --num-samples 3 --seed 1
  olc batch requests.jsonl -o answers.jsonl --retry-errors
  olc batch reviews.csv -o answers.csv --choices good,bad --calibrate
  olc batch --peek answers.jsonl
  olc batch requests.jsonl -m 3b-v2 --dry-run
  olc batch reviews.csv -t sentiment --examples prompts/examples/sentiment.csv --shots 4 --balance -o answers.jsonl
  olc batch --report answers.jsonl --svg reliability.svg
  olc batch answers.csv --score --context-column question -o scores.csv
  olc batch prompts.csv -o answers.jsonl --server http://localhost:8000 --batch-size 256
"""


@click.command(cls=GroupedCommand, epilog=EXAMPLES)
@click.argument("source", metavar="INPUT", required=False, shell_complete=suggest.files)
@click.option(
    "-o",
    "--output",
    metavar="OUTPUT",
    show_default="INPUT with .completions.jsonl, or .scores.jsonl",
    help="Output file: JSON Lines, or .csv, .tsv, .txt (one text per line); - is stdout.",
    shell_complete=suggest.files,
)
@click.option(
    "--format",
    "format_name",
    metavar="|".join(get_args(FormatName)),
    show_default="by INPUT's suffix",
    help="Input format.",
    shell_complete=suggest.choices(*get_args(FormatName)),
)
@template_option("Fill a prompt template with each row's columns.")
@example_options
@show_prompt_option
@click.option(
    "--carry",
    default="all",
    show_default=True,
    metavar="all|none|FIELD,…",
    help="Fields of INPUT to copy to OUTPUT, of those that olc does not use; a named one is never taken for an option.",
)
@choice_options
@score_options
@escape_option("--stop, --ban and choices")
@number_option("--num-samples", most=MOST_SAMPLES, default=1, help="Number of completions of each row.")
@click.option("--batch-size", "batch_size_text", default="auto", show_default=True, metavar="auto|N", help="Rows at a time.")
@click.option("--dry-run", is_flag=True, help="Count tokens, find rows that would fail, estimate the time; write nothing.")
@click.option(
    "--peek", metavar="OUTPUT", help="Print the rows that an unfinished batch has so far.", shell_complete=suggest.files
)
@click.option(
    "--report",
    metavar="OUTPUT",
    help="Compare a finished OUTPUT with its rows' field `answer`: accuracy, confusion, calibration.",
    shell_complete=suggest.files,
)
@svg_option("With --report: save the reliability plot as an SVG image.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run, --report or --show-prompt: print JSON.")
@click.option("--retry-errors", is_flag=True, help="Retry only the rows that failed.")
@click.option("--restart", is_flag=True, help="Start over, discarding earlier results.")
@click.option(
    "--engine",
    "engine_name",
    default="local",
    show_default=True,
    metavar="local|ray",
    help="local, or ray: workers on one or more machines.",
    shell_complete=suggest.choices("local", "ray"),
)
@click.option("--ray-address", metavar="auto|HOST:PORT", show_default="a new local one", help="Ray cluster to join.")
@click.option(
    "--workers",
    type=int,
    metavar="N",
    show_default="as many as fit",
    help="Number of Ray workers, each with its own copy of the model.",
)
@server_option
@click.option("--json-progress", is_flag=True, help="Write progress to stdout as JSON lines.")
@click.option("--annotate", "annotated", metavar="KINDS", help="Add spaCy annotations: entities,pos,…; see `olc annotate`.")
@pipeline_options
@sampling_options(SamplingConfig(), guarded=True)
@model_options
def command(
    source: str | None,
    output: str | None,
    format_name: str | None,
    template: str | None,
    examples: ExampleOptions,
    show_prompt: bool,
    carry: str,
    choosing: ChoiceOptions,
    scoring: ScoreSettings | None,
    escape: bool,
    num_samples: int,
    batch_size_text: str,
    dry_run: bool,
    peek: str | None,
    report: str | None,
    svg: str | None,
    as_json: bool,
    retry_errors: bool,
    restart: bool,
    engine_name: str,
    ray_address: str | None,
    workers: int | None,
    server: str | None,
    json_progress: bool,
    annotated: str | None,
    chosen: PipelineOptions,
    given: dict[str, Any],
    spec: ModelSpec,
) -> None:
    """Complete every prompt in INPUT and write the results to OUTPUT.

    INPUT is .txt (one prompt per line), .jsonl (prompts or template variables, custom_id, sampling options; or OpenAI batch
    lines), .csv or .tsv with a header; - is stdin. Finished rows go to a journal beside OUTPUT, which appears when it is
    complete: run the same command again to resume after a crash; once all is done, it does nothing. Rows that sample
    without a seed use --seed, or 0.
    """
    if peek is not None:
        peek_rows(Path(peek))
        return
    if report is not None:
        show_report(Path(report), svg=svg, as_json=as_json)
        return
    if svg is not None:
        raise UsageError("--svg requires --report", "name a finished OUTPUT: --report answers.jsonl")
    if as_json and not (show_prompt or dry_run):
        remedy = "add one of them; OUTPUT is JSON lines without --json"
        raise UsageError("--json requires --dry-run, --report or --show-prompt", remedy)
    if source is None:
        raise missing("INPUT", "name a file of prompts, or - for stdin")
    batch_size = _parse_batch_size(batch_size_text)
    ray_options = parse_engine(engine_name, ray_address, workers)
    if ray_options is not None:
        one_process_only("--engine ray")
    address = parse_server(server, spec)
    if address is not None and ray_options is not None:
        raise UsageError("--server cannot be combined with --engine ray", "leave one of them out")
    if dry_run:
        for flag, elsewhere in {"--server": address, "--engine ray": ray_options}.items():
            if elsewhere is not None:
                raise UsageError(f"--dry-run cannot be combined with {flag}", f"leave out {flag}: it measures this machine")
        one_process_only("--dry-run")
    annotator = RowAnnotator.parse(annotated, chosen)
    if retry_errors and restart:
        raise UsageError("--retry-errors and --restart cannot be combined", "give only one of them")
    if escape:
        unescape_stops(given)
    prompt_template = load_template(template) if template is not None else None
    if prompt_template is not None and not prompt_template.variables:
        hint(f"the template {prompt_template.name} has no variables: every row gets the same prompt")
    if scoring is not None:
        others = {"--annotate": annotated, "--server": server, "--num-samples": num_samples > 1}
        refuse_beside_score({choosing.given or "": choosing.given, **others, **sampling_flags(given)})
        refuse_texts(output)
    beside = {**given, **({"num_samples": num_samples} if num_samples > 1 else {})}
    settings = RowSettings(
        prompt_template,
        _defaults(given, prompt_template, num_samples) if scoring is None else SAMPLING,
        carry=Carry.parse(carry),
        model=spec.model,
        fixed_length="max_tokens" in given or scoring is not None,
        for_server=address is not None,
        samples=num_samples,
        guarded=True,
        few_shot=replace(examples, prefix=choosing.prefix).open(prompt_template),
        choosing=ChoiceSettings() if scoring is not None else _choosing(choosing, prompt_template, beside),
        scoring=scoring,
    )
    find_engine = partial(open_engine, spec, ray_options, address, settings)
    from_stdin = source == "-"
    named, output = output, "-" if show_prompt or dry_run else output
    if from_stdin and (output is None or format_name is None):
        both = output is None and format_name is None
        what = "its format and the output" if both else "the output" if output is None else "its format"
        flags = [*(["--format txt"] if format_name is None else []), *(["-o answers.jsonl"] if output is None else [])]
        raise UsageError("INPUT is stdin", f"name {what}: {' '.join(flags)}")
    if not from_stdin:
        check_input(Path(source))
    fmt = input_format(Path(source), format_name)
    if scoring is not None and scoring.context_column is not None and fmt == "txt":
        raise UsageError("--context-column needs columns, and the lines of .txt have none", "use .csv or .jsonl")
    if show_prompt:
        show_first_prompt(source, fmt, settings, None if address is not None else spec, as_json=as_json)
        return
    if dry_run:
        if named not in (None, "-", "/dev/stdout"):
            from openllama_cli.batch.output.output import check_output

            check_output(Path(named), None if from_stdin else Path(source), restart=restart)
        engine = find_engine()
        assert isinstance(engine, LocalEngine)
        DryRun(source, fmt, settings, engine, batch_size, annotator is not None).show(as_json=as_json)
        return
    if output in ("-", "/dev/stdout"):
        if retry_errors or restart or json_progress:
            option = "--retry-errors" if retry_errors else "--restart" if restart else "--json-progress"
            raise UsageError(f"{option} needs an OUTPUT that is a file", f"leave out {option}, or give -o a file name")
        _stream(source, fmt, settings, find_engine, {"batch_size": batch_size, "annotate": annotator})
        return
    # Not before the options are known to be right: a usage error is to be as quick as help.
    from openllama_cli.batch.input.precheck import precheck
    from openllama_cli.batch.input.saved import saved
    from openllama_cli.batch.output.extend import Earlier, extend
    from openllama_cli.batch.output.lock import output_lock
    from openllama_cli.batch.output.output import check_output, open_journal, write_output
    from openllama_cli.records.batch.record import batch_record

    made = ".completions.jsonl" if scoring is None else ".scores.jsonl"
    target = Path(output) if output is not None else Path(source).with_suffix(made)
    files = check_output(target, None if from_stdin else Path(source), restart=restart)
    with output_lock(files.output), GracefulStop() as stop:
        path = files.spool if from_stdin else Path(source)
        if from_stdin:
            keep_stdin(path, restart=restart)
        earlier = None if restart else Earlier.of(files)
        summary = precheck(path, fmt, settings, beginning=None if earlier is None else earlier.rows)
        engine = find_engine()
        settings = fitted_settings(settings, engine)
        header = engine.header(settings, fmt, summary)
        if annotator is not None:
            annotator.open()
            header["options"] |= annotator.options
        if earlier is not None and summary.rows > earlier.rows and summary.beginning == earlier.rows_sha256:
            kept = extend(files, header, summary.rows)
            if kept is not None:
                more = summary.rows - earlier.rows
                rows = "1 more row" if more == 1 else f"{more} more rows"
                notice(f"olc: {source} has {rows}; {kept} of the {earlier.rows} before are done")
        with open_journal(files, header, summary.rows, retry_errors=retry_errors, restart=restart) as journal:
            if journal.complete:
                files.spool.unlink(missing_ok=True)
                notice(f"olc: {target} is already complete: {summary.rows} rows, none failed")
                return
            batch = Batch(
                journal,
                summary,
                stop,
                engine,
                settings,
                batch_size=batch_size,
                annotate=annotator,
                source=source,
                spooled=path if from_stdin else None,
                as_json=json_progress,
            )
            _tell_empty(summary, fmt)
            if journal.counts.done < summary.rows:
                digest = hashlib.sha256()
                # Rows that were appended meanwhile are none of this run's; reading on to the end shows that they are there.
                skip = lambda index: index >= summary.rows or journal.done(index)  # noqa: E731
                batch.run(read_rows(path, fmt, settings, skip=skip, on_bytes=digest.update))
                if digest.hexdigest() != summary.sha256:
                    raise _changed(source, "start over with --restart")
            told = {"name": Path(source).name if source != "-" else "stdin", "rows": summary.rows, **header["input"]}

            def record(written: "OutputRecord") -> dict[str, Any]:
                output = {"name": files.output.name, "failed": journal.counts.failed, **asdict(written)}
                model = engine.told
                # A folder is no name that a row can have given, and records tell none.
                named = replace(settings, model=None) if model["model"].get("origin") == "folder" else settings
                return batch_record(header, saved(named), journal.runs, model, {"input": told, "output": output})

            write_output(journal, files.output, record)
            files.spool.unlink(missing_ok=True)
            batch.report(target)


def _tell_empty(summary: "InputSummary", fmt: FormatName) -> None:
    if summary.empty:
        are = "prompt is" if summary.rows == 1 else f"prompts {'is' if summary.empty == 1 else 'are'}"
        notice(f"olc: {summary.empty} of {summary.rows} {are} empty" + (", as blank lines are prompts" if fmt == "txt" else ""))


def _changed(source: str, remedy: str) -> OlcError:
    return OlcError(f"{source} was changed during the run", f"results may mix both versions; {remedy}", code="input_changed")


def _stream(
    source: str, fmt: FormatName, settings: RowSettings, find_engine: Callable[[], Engine], options: dict[str, Any]
) -> None:
    """A batch to stdout: rows in the order of the input as they finish, and nothing to resume from."""
    from openllama_cli.batch.input.precheck import precheck
    from openllama_cli.batch.output.stream import RowStream

    with tempfile.TemporaryDirectory(prefix="olc-") as folder, GracefulStop() as stop:
        path = Path(source)
        if source == "-":
            path = Path(folder) / "stdin"
            keep_stdin(path, restart=False)
        summary = precheck(path, fmt, settings)
        engine = find_engine()
        settings = fitted_settings(settings, engine)
        if options["annotate"] is not None:
            options["annotate"].open()
        _tell_empty(summary, fmt)
        options["source"] = source
        rows = RowStream(summary.rows, lambda line: out(line.decode()))
        batch = Batch(rows, summary, stop, engine, settings, **options, spooled=None, as_json=False)
        digest = hashlib.sha256()
        batch.run(row for row in read_rows(path, fmt, settings, on_bytes=digest.update) if row.index < summary.rows)
        if digest.hexdigest() != summary.sha256:
            raise _changed(source, "run it again")
        batch.report(Path("stdout"))


def _parse_batch_size(text: str) -> int | None:
    """The value of --batch-size: None for auto, else a number of rows. Raises UsageError."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UsageError(f"--batch-size {text} is not a batch size", "give auto, or a number from 1 to 1024")
    return int(text)


def _defaults(given: Mapping[str, Any], template: PromptTemplate | None, samples: int) -> dict[str, Any]:
    """The options that hold for every row. Raises UsageError."""
    choose_sampling(given, samples=samples)
    defaults = with_template(given, template)
    if samples > 1:
        defaults.setdefault("temperature", 1.0)
    return defaults


def _choosing(options: ChoiceOptions, template: PromptTemplate | None, given: Mapping[str, Any]) -> ChoiceSettings:
    """What rows are chosen from. given: sampling options, which make no sense beside it. Raises UsageError."""
    choices = options.choices(template, of_rows=True)
    if choices is not None:
        options.refuse(template, sampling_flags(given))
    text = options.calibrate_with
    if text is not None and template is not None:
        check_calibrated(template)
    elif text is not None and choices is not None:
        choices = replace(choices, neutral=text)
    option = options.depending if choices is None else None
    return ChoiceSettings(choices, options.prefix_of(template), options.normalize or "sum", text, option)
