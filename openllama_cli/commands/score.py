"""`olc score`: how likely a model finds a text."""

from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import escape_option, file_option, model_options, svg_option
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.commands.shared.prompt_input import argument, hint_escape, missing, read_prompt, unescape
from openllama_cli.commands.shared.scoring import ScoredText, loaded_score, served_score
from openllama_cli.commands.shared.server import ServerChoice, server_options
from openllama_cli.errors import UsageError
from openllama_cli.generation.text.scoring import Unit, prepare
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import note, out_json, stdin_has_input

EXAMPLES = """\b
Examples:
  olc score "The largest animal is the blue whale."
  olc score " Paris." --context "Q: What is the capital of France?\\nA:" -e
  olc score -f notes.txt --by word | sort -t "$(printf '\\t')" -k 2 -n | tail
  olc score -f verses.txt --by line
  olc score -f book.txt --stride 256 --json | jq .totals.bits_per_byte
  olc score "The largest animal is the blue whale." --svg surprisal.svg
"""


@click.command(epilog=EXAMPLES)
@click.argument("text", required=False)
@file_option("File with the text, all of it, byte for byte; - is stdin.")
@escape_option("TEXT and --context")
@click.option("--context", metavar="TEXT", help="What stands directly before the text; it is not scored itself.")
@click.option(
    "--by",
    "unit",
    default="token",
    show_default=True,
    metavar="|".join(get_args(Unit)),
    help="Parts of the text to show.",
    shell_complete=suggest.choices(*get_args(Unit)),
)
@click.option(
    "--stride",
    type=int,
    metavar="N",
    show_default="half the context",
    help="Score a text that does not fit the model's context in windows, each N tokens further.",
)
@click.option("--top", type=click.IntRange(1, 100), metavar="K", help="With --json: the K most likely tokens in each place.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@svg_option("Save the surprisal along the text as a curve, an SVG image.")
@click.option("--stats", is_flag=True, help="Print timings and speeds to stderr.")
@model_options
@server_options
def command(
    text: str | None,
    file: str | None,
    escape: bool,
    context: str | None,
    unit: Any,
    stride: int | None,
    top: int | None,
    as_json: bool,
    svg: str | None,
    stats: bool,
    spec: ModelSpec,
    server: ServerChoice,
) -> None:
    """Show how likely the model finds TEXT: surprisal in bits of each token, word or line, and perplexity.

    Without TEXT, or with -, the text is read from stdin, byte for byte. A terminal shows the text shaded by surprisal; a pipe
    gets a line for each part, and stderr the figures of the whole. Nothing is generated.
    """
    if unit not in get_args(Unit):
        raise UsageError(
            f"--by {unit} is not a part of a text", f"give {', '.join(get_args(Unit)[:-1])} or {get_args(Unit)[-1]}"
        )
    if top is not None and not (as_json and unit == "token"):
        raise UsageError("--top requires --json, by token", "add --json, and leave out --by")
    if as_json and svg is not None:
        raise UsageError("--json and --svg cannot be combined", "give one of them")
    if svg is not None:
        writable(svg)
    if text is None and file is None and not stdin_has_input():
        raise missing("text", 'give it as an argument, such as "The largest animal is the blue whale."')
    scored = read_prompt(text, file, None, (), escape=escape).text
    if not escape:
        hint_escape([given for given in (text, context) if given is not None])
    if context is not None:
        context = unescape(argument(context)) if escape else argument(context)
    if not scored:
        raise UsageError("the text to score is empty", "give a text", code="empty_prompt")
    options = {"context": context, "by": unit, "top": top} if as_json else None
    given: dict[str, Any] = {"text": scored, "context": context or "", "top": top or 1, "options": options}
    made, folder = server.answer(spec, partial(served_score, stride=stride, **given))
    if made is None:
        opened = open_model(spec, folder)
        positions = opened.checkpoint.shape.context
        prepared = prepare(opened.tokenizer, scored, context or "", positions=positions, stride=stride)
        made = loaded_score(load_model(opened, spec), prepared=prepared, **given)
    if as_json:
        out_json(_document(made, scored, context, unit, top=top is not None))
    else:
        _show(made, context or "", unit, svg)
    if stats:
        made.show_stats()


def _document(made: ScoredText, text: str, context: str | None, unit: Unit, *, top: bool) -> dict[str, Any]:
    return {
        "model": made.model,
        "text": text,
        "context": context,
        "by": unit,
        "entries": made.score.document(unit, top=top),
        "totals": made.score.totals(),
        "olc": made.olc,
    }


def _show(made: ScoredText, context: str, unit: Unit, svg: str | None) -> None:
    from openllama_cli.terminal.views import score as view

    parts = made.score.by(unit)
    totals = made.score.totals()
    if svg is not None:
        from openllama_cli.terminal.views.saved.surprisal_curve import svg as curve

        bits = [(part.text, part.bits) for part in parts]
        save(Path(svg), curve(bits, unit, f"olc score · {made.model}", view.summary(totals)))
        note(f"wrote {svg}")
    shown = [
        view.Part(part.text, part.start, part.bits, part.tokens, part.rank, None if part.expected is None else part.expected[0])
        for part in parts
    ]
    view.show(context, shown, unit, totals)
