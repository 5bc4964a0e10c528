"""`olc replay`: a result made again from its own record, and compared."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import adapter_option, model_option, number_option, offline_option
from openllama_cli.errors import UsageError
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.terminal.streams import note, one_line, out

if TYPE_CHECKING:
    from openllama_cli.records.read import Record
    from openllama_cli.records.replay import Comparison, Parting, Side
    from openllama_cli.records.scores import Deviation, Flip, Scores

Texts = Callable[[int], str | None]

EXAMPLES = """\b
Examples:
  olc complete "The sky is" --json > sky.json && olc replay sky.json
  olc replay sky.json -m ./open_llama_3b --device cpu
  olc score -f notes.txt --json > score.json && olc replay score.json
  olc replay sky.json --against sky_of_the_gpu.json
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
@number_option("--batch-size", default=16, most=1024, help="Rows at a time; changes no result in float32.")
@click.option("--against", metavar="RECORD2", help="Compare with another record; run nothing.", shell_complete=suggest.files)
@offline_option
@click.pass_context
def command(
    ctx: click.Context,
    record: str,
    model: str | None,
    adapters: tuple[str, ...],
    device: str | None,
    batch_size: int,
    against: str | None,
    offline: bool,
) -> None:
    """Make the result in the file RECORD again, and compare it token by token.

    RECORD is the output of `olc complete --json`, `olc generate --json` or `olc score --json`, or an answer of `olc serve` with
    its record. Exit code 0: it is the same; 1: it differs, or the weights do; 2: RECORD is no record.
    """
    from openllama_cli.records.read import changed_surroundings, read_record

    found = read_record(Path(record))
    text: Texts
    if against is not None:
        for given, name in ((model, "-m"), (device, "--device"), (adapters, "--adapter")):
            if given:
                raise UsageError(f"--against runs nothing, so {name} has no use", f"leave out {name}, or --against")
        other = read_record(Path(against))
        _refuse_others(found, other)
        from openllama_cli.records.replay import against as hold_against

        compared, text = hold_against(found, other), _unknown
    else:
        one_process_only("olc replay")
        spec = found.spec(model, device, adapters, offline=offline)
        opened = open_model(spec)
        found.check_weights(opened)
        found.check_ids(opened)
        loaded = load_model(opened, spec, lean=found.document["engine"] == "loop")
        from openllama_cli.api import Model
        from openllama_cli.records.replay import replay

        compared, text = replay(found, Model(loaded, notice=note), batch_size), opened.tokenizer.text
    changes = changed_surroundings(found.document, compared.document)
    out("".join(f"{line}\n" for line in _lines(found, compared, changes, text)))
    ctx.exit(1 if compared.different else 0)


def _refuse_others(record: "Record", other: "Record") -> None:
    """Raise UsageError for two records that are not of the same work."""
    what = None
    shape = [(one.prompts, one.samples, [[branch.ids for branch in side] for side in one.branches]) for one in (record, other)]
    if shape[0] != shape[1]:
        what = "prompts"
    elif (record.sampling, record.choices, record.scoring) != (other.sampling, other.choices, other.scoring):
        what = "options"
    elif record.document["model"]["files"] != other.document["model"]["files"]:
        what = "weights"
    if what is not None:
        raise UsageError(
            f"{record.name} and {other.name} have other {what}", f"compare the results: olc diff {record.name} {other.name}"
        )


def _lines(record: "Record", compared: "Comparison", changes: list[str], text: Texts) -> list[str]:
    """What came of it: one line if all is equal. text: of a token."""
    if not compared.different:
        return [f"equal: {'; '.join(_equal(record, compared, text))}"]
    rows = f"{compared.rows} completion{'s' * (compared.rows != 1)}"
    lines, parts = [], []
    if compared.partings:
        noise = "" if compared.noise is None else f", log-probabilities within {compared.noise:.2g}"
        parts.append(f"{len(compared.partings)} of {rows}; {compared.tokens} tokens before that are equal{noise}")
        for parting in compared.partings:
            lines += _parting_lines(record, parting)
    if compared.kept is not None:
        sides = [", ".join(str(row) for row, place in enumerate(side) if place is not None) for side in compared.kept]
        parts.append(f"of {rows} others are the best")
        lines.append(f"the best completions: recorded {sides[0]}, now {sides[1]}")
    if compared.flips:
        parts.append(f"{len(compared.flips)} of {_answers(record)}")
        for flip in compared.flips:
            lines += _flip_lines(record, flip)
    if compared.scores is not None and compared.scores.beyond:
        parts.append(f"{compared.scores.beyond} of {_scored(compared.scores)} by more than {_rounding(record)} can explain")
    if compared.scores is not None and compared.scores.furthest is not None:
        lines.append(_deviation_line(record, compared.scores.furthest, text))
    changed = [f"changed: {one_line(change)}" for change in changes] or ["changed: nothing that the record tells"]
    return [f"different: {'; '.join(parts)}", *lines, *changed]


def _equal(record: "Record", compared: "Comparison", text: Texts) -> Iterator[str]:
    """What was compared, and how close it is."""
    if record.completions:
        noise = "" if compared.noise is None else f", log-probabilities within {compared.noise:.2g}"
        yield f"{compared.rows} completion{'s' * (compared.rows != 1)}, {compared.tokens} tokens{noise}"
    if compared.share is not None:
        yield f"{_answers(record)}, probabilities within {compared.share:.2g}"
    if compared.scores is not None:
        furthest = compared.scores.furthest
        where = "" if furthest is None else f", most at {_place(record, furthest, text)}"
        within = 0.0 if furthest is None else furthest.difference
        yield f"{_scored(compared.scores)}, log-probabilities within {within:.2g}{where}"


def _answers(record: "Record") -> str:
    assert record.choices is not None
    count = len(record.prompts) - (record.choices.neutral is not None)
    return f"{count} answer{'s' * (count != 1)} from {len(record.choices.texts)} choices"


def _scored(scores: "Scores") -> str:
    return f"{scores.tokens} scored token{'s' * (scores.tokens != 1)}"


def _rounding(record: "Record", times: float = 1) -> str:
    from openllama_cli.records.replay import rounding

    return f"{times * rounding(record):g}, what rounding in {_precision(record)}"


def _flip_lines(record: "Record", flip: "Flip") -> list[str]:
    sides = [f'"{one_line(one.text)}" {100 * one.probability:.2f} %' for one in (flip.recorded, flip.here)]
    verdict = "no more" if flip.margin <= flip.explained else "more"
    can = f"{flip.explained:g}, what rounding in {_precision(record)} can explain"
    return [
        f"prompt {flip.prompt}: recorded {sides[0]}, now {sides[1]}",
        f"  margin {flip.margin:.3g}, recorded {flip.before:.3g} the other way: {verdict} than {can}",
    ]


def _deviation_line(record: "Record", one: "Deviation", text: Texts) -> str:
    sides = ["none" if value is None else f"{value:.6g}" for value in (one.recorded, one.here)]
    return f"largest difference, {_place(record, one, text)}: recorded {sides[0]}, now {sides[1]}"


def _place(record: "Record", one: "Deviation", text: Texts) -> str:
    known = text(one.id)
    token = f"token {one.place}, " + (f"id {one.id}" if known is None else f'"{one_line(known)}" (id {one.id})')
    if one.choice is not None:
        assert record.choices is not None
        neutral = one.prompt == len(record.prompts) - 1 and record.choices.neutral is not None
        after = " after the neutral prompt" if neutral else f" of prompt {one.prompt}" if len(record.prompts) > 1 else ""
        return f'choice "{one_line(record.choices.texts[one.choice])}"{after}, {token}'
    return token if len(record.prompts) == 1 else f"prompt {one.prompt}, {token}"


def _parting_lines(record: "Record", parting: "Parting") -> list[str]:
    from openllama_cli.records.replay import CANDIDATES, explained

    where = f"completion {parting.row}, token {parting.place}"
    lines = [f"{where}: recorded {_side(parting.recorded)}, now {_side(parting.here)}"]
    why = explained(parting, record)
    can = f"{_rounding(record, 2)} can explain"
    if parting.margin is not None:
        chance = "more than it decided, such as chance or a penalty"
        verdict = chance if why is None else f"no more than {can}" if why else f"more than {can}"
        lines.append(f"  margin {parting.margin:.3g}: {verdict}")
    elif why is False:
        lines.append(f"  the recorded token is not among the {CANDIDATES} likeliest ones: the margin is more than {can}")
    return lines


def _unknown(token: int) -> str | None:
    """Nothing was loaded that knows the text of a token."""
    return None


def _precision(record: "Record") -> str:
    return str(record.document["quantization"] or record.document["dtype"])


def _side(side: "Side | None") -> str:
    if side is None:
        return "the end"
    named = f"token {side.id}" if side.text is None else f'"{one_line(side.text)}" (token {side.id})'
    return named if side.logprob is None else f"{named} {100 * math.exp(side.logprob):.2f} %"
