"""`olc replay`: a result, or the rows of a batch, made again from its own record, and compared."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from openllama_cli.commands.replay.lines import Texts, document_of, lines_of, unknown
from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import adapter_option, model_option, number_option, offline_option
from openllama_cli.errors import UsageError
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.terminal.streams import note, out_json, out_lines

if TYPE_CHECKING:
    from openllama_cli.records.read import Record

EXAMPLES = """\b
Examples:
  olc complete "The sky is" --json > sky.json && olc replay sky.json
  olc replay sky.json -m ./open_llama_3b --device cpu
  olc score -f notes.txt --json > score.json && olc replay score.json
  olc replay sky.json --against sky_of_the_gpu.json
  olc replay answers.jsonl.record.json --sample 50
  olc replay answers.jsonl.record.json --rows 3,france --input prompts/answers.csv
  olc replay answers.jsonl.record.json --against gpu/answers.jsonl.record.json
"""


@click.command(epilog=EXAMPLES)
@click.argument("record", shell_complete=suggest.files)
@model_option
@adapter_option
@click.option(
    "--device",
    metavar="auto|cpu|cuda[:N]|mps",
    show_default="the record's",
    help="Device to run the model on.",
    shell_complete=suggest.choices("auto", "cpu", "cuda", "mps"),
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1024),
    metavar="N",
    show_default="as it was made",
    help="Rows at a time; changes no result in float32.",
)
@click.option("--rows", metavar="ROW,…", help="Of a batch: only these rows, by custom_id or number (from 0).")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Of a batch: only N rows, drawn by chance.")
@click.option("--seed", type=int, metavar="SEED", show_default="0", help="With --sample: which rows are drawn.")
@click.option(
    "--input",
    "source",
    metavar="INPUT",
    show_default="beside RECORD",
    help="Of a batch: the file with its prompts.",
    shell_complete=suggest.files,
)
@click.option(
    "--output",
    metavar="OUTPUT",
    show_default="beside RECORD",
    help="Of a batch: the file with its completions.",
    shell_complete=suggest.files,
)
@click.option(
    "--examples",
    metavar="FILE",
    show_default="in RECORD",
    help="Of a batch with more examples than its record holds: their file.",
    shell_complete=suggest.files,
)
@number_option("--show", least=0, default=10, help="Of a batch: rows that are told, of those that differ.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--against", metavar="RECORD2", help="Compare with another record; run nothing.", shell_complete=suggest.files)
@offline_option
@click.pass_context
def command(
    ctx: click.Context,
    record: str,
    model: str | None,
    adapters: tuple[str, ...],
    device: str | None,
    batch_size: int | None,
    rows: str | None,
    sample: int | None,
    seed: int | None,
    source: str | None,
    output: str | None,
    examples: str | None,
    show: int,
    as_json: bool,
    against: str | None,
    offline: bool,
) -> None:
    """Make the result in the file RECORD again, and compare it token by token.

    RECORD (or -, stdin) is the output of `olc complete --json`, `olc generate --json` (also with --trace or --check) or
    `olc score --json`, or an answer of `olc serve` with its record; or the OUTPUT.record.json of `olc batch`, of which all
    rows, some or a sample are made again.
    Exit code 0: it is the same; 1: it differs, or the weights, INPUT or OUTPUT do; 2: RECORD is no record.
    """
    from openllama_cli.commands.replay import batch as of_batch
    from openllama_cli.records.made import changed_surroundings, read_document
    from openllama_cli.records.read import read_record

    if record == against == "-":
        raise UsageError("both RECORD and RECORD2 are stdin", "name a file for one of them")
    stdin = None if sys.stdin is None else sys.stdin.buffer
    document = read_document(Path(record), stdin)
    other_document = None if against is None else read_document(Path(against), stdin)
    options = of_batch.ReplayOptions(source, output, examples, rows, sample, seed, batch_size)
    runs_nothing = {"-m": model, "--device": device, "--adapter": adapters, "--batch-size": batch_size}
    if against is not None and (name := next((name for name, given in runs_nothing.items() if given), None)) is not None:
        raise UsageError(f"--against runs nothing, so {name} has no use", f"leave out {name}, or --against")
    if document.get("command") == "batch":
        from openllama_cli.commands.replay.batch_lines import show as show_replayed
        from openllama_cli.records.batch.read import read_batch

        batch = read_batch(Path(record), document)
        if against is not None and other_document is not None:
            if (name := replace(options, output=None).given) is not None:
                raise UsageError(f"--against compares all rows, so {name} has no use", f"leave out {name}, or --against")
            replayed = of_batch.hold_against(batch, read_batch(Path(against), other_document), output)
        else:
            one_process_only("olc replay")
            replayed = of_batch.replay_batch(batch, batch.spec(model, device, adapters, offline=offline), options)
        show_replayed(replayed, show, as_json=as_json)
        ctx.exit(1 if replayed.partings else 0)
    if (name := options.given) is not None:
        raise UsageError(f"{name} is for batches, and {record} is a result", f"leave out {name}")
    found = read_record(Path(record), document)
    text: Texts
    if against is not None:
        other = read_record(Path(against), other_document)
        _refuse_others(found, other)
        from openllama_cli.records.replay import against as hold_against

        compared, text = hold_against(found, other), unknown
    else:
        one_process_only("olc replay")
        spec = found.spec(model, device, adapters, offline=offline)
        opened = open_model(spec)
        found.check_weights(opened)
        found.check_ids(opened)
        loaded = load_model(opened, spec, lean=found.document["engine"] == "loop")
        from openllama_cli.api import Model
        from openllama_cli.records.replay import replay as run_again
        from openllama_cli.records.replay import texts_of

        model_here = Model(loaded, notice=note)
        compared, text = run_again(found, model_here, batch_size or found.batch_size), texts_of(opened.tokenizer)
    changes = changed_surroundings(found.document, compared.document)
    if as_json:
        out_json(document_of(found, compared, changes))
    else:
        out_lines(lines_of(found, compared, changes, text))
    ctx.exit(1 if compared.different else 0)


def _refuse_others(record: "Record", other: "Record") -> None:
    """Raise UsageError for two records that are not of the same work."""
    what = None
    pair = (record, other)
    kinds = ["a score" if one.scoring else "choices" if one.choices else "completions" for one in pair]
    branches = [[[branch.ids for branch in side] for side in one.branches] for one in pair]
    # Which log-probabilities are told makes no other tokens.
    options = [(replace(one.sampling, logprobs=None), one.samples, one.choices, one.scoring) for one in pair]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"{record.name} is the record of {kinds[0]}, and {other.name} of {kinds[1]}", "name two records of the same kind"
        )
    if record.prompts != other.prompts:
        what = "prompts"
    elif options[0] != options[1] or branches[0] != branches[1]:
        what = "options"
    elif record.weights != other.weights:
        what = "weights"
    if what is not None:
        names = [shlex.quote(one.name) for one in pair]
        diff = f"compare the results: olc diff {' '.join(names)}"
        remedy = diff if kinds[0] != "a score" else f"make {other.name} again with the {what} of {record.name}"
        raise UsageError(f"{record.name} and {other.name} have different {what}", remedy)
