"""`olc batch`: a file of prompts to a file of completions. Its options, and the ways in which it goes on."""

from pathlib import Path
from typing import Any, get_args

import click

from openllama_cli.batch.input.field_names import MOST_SAMPLES
from openllama_cli.batch.input.readers import FormatName
from openllama_cli.commands.batch.dry_run import DryRun
from openllama_cli.commands.batch.given import Given
from openllama_cli.commands.batch.looks import peek_rows, show_first_prompt, show_report
from openllama_cli.commands.batch.score_options import score_options
from openllama_cli.commands.batch.to_file import to_file
from openllama_cli.commands.batch.to_stdout import to_stdout
from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.annotations import pipeline_options
from openllama_cli.commands.shared.choice_options import choice_options
from openllama_cli.commands.shared.few_shot import example_options, show_prompt_option
from openllama_cli.commands.shared.options import (
    GroupedCommand,
    escape_option,
    model_options,
    number_option,
    svg_option,
    template_option,
)
from openllama_cli.commands.shared.sampling.options import sampling_options
from openllama_cli.commands.shared.server import server_option
from openllama_cli.generation.decode.config import SamplingConfig

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
def command(**values: Any) -> None:
    """Complete every prompt in INPUT and write the results to OUTPUT.

    INPUT is .txt (one prompt per line), .jsonl (prompts or template variables, custom_id, sampling options; or OpenAI batch
    lines), .csv or .tsv with a header; - is stdin. Finished rows go to a journal beside OUTPUT, which appears when it is
    complete: run the same command again to resume after a crash; once all is done, it does nothing. Rows that sample
    without a seed use --seed, or 0.
    """
    given = Given(**values)
    if given.peek is not None:
        peek_rows(Path(given.peek))
        return
    if given.report is not None:
        show_report(Path(given.report), svg=given.svg, as_json=given.as_json)
        return
    plan = given.plan()
    if given.show_prompt:
        spec = None if plan.settings.for_server else given.spec
        show_first_prompt(plan.source, plan.fmt, plan.settings, spec, as_json=given.as_json)
    elif given.dry_run:
        annotated = plan.annotator is not None
        engine = plan.local_engine()
        DryRun(plan.source, plan.fmt, plan.settings, engine, plan.batch_size, annotated).show(as_json=given.as_json)
    elif plan.output in ("-", "/dev/stdout"):
        to_stdout(plan)
    else:
        to_file(plan, retry_errors=given.retry_errors, restart=given.restart, as_json=given.json_progress)
