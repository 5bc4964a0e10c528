"""`olc diff`: two outputs on the same prompts, row by row."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.options import number_option
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.errors import UsageError
from openllama_cli.terminal.streams import is_terminal, note, one_line, out_json

if TYPE_CHECKING:
    from openllama_cli.compare.difference import Candidate, Difference, Summary
    from openllama_cli.compare.entries import Entry
    from openllama_cli.terminal.views.diff import ShownRow

# Rows of --html: more make a page that no browser likes.
_MOST_IN_PAGE = 1000
# Lines that go into a pipe together: a write for each would take longer than the comparison.
_AT_A_TIME = 500

EXAMPLES = """\b
Examples:
  olc diff monday.jsonl tuesday.jsonl
  olc diff float32.jsonl int8.jsonl --html int8.html
  olc complete "The sky is" --json | olc diff before.json -
  olc diff a.jsonl b.jsonl --json | jq -r .custom_id
"""


@click.command(epilog=EXAMPLES)
@click.argument("a", shell_complete=suggest.files)
@click.argument("b", shell_complete=suggest.files)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line for each row that differs, and one with the summary.")
@click.option("--html", metavar="FILE", help="Save the comparison as a web page of its own.", shell_complete=suggest.files)
@number_option("--show", least=0, default=10, help="Rows that a terminal shows side by side.")
@click.pass_context
def command(ctx: click.Context, a: str, b: str, as_json: bool, html: str | None, show: int) -> None:
    """Compare two outputs of `olc batch`, or two JSON results, row by row.

    Rows are matched by custom_id. For each one that differs: why, as far as the files tell, and the first token that differs
    (the first character where a file has no tokens). Exit code 0: all rows are equal; 1: some differ; 2: they cannot be
    compared.
    """
    page = None if html is None else writable(html, "page.html")
    if a == b == "-":
        raise UsageError("both A and B are stdin", "name a file for one of them")
    from openllama_cli.compare.difference import Summary
    from openllama_cli.compare.lines import open_lines
    from openllama_cli.compare.processes import differences
    from openllama_cli.compare.surroundings import changes, surroundings
    from openllama_cli.terminal.views import diff as view

    stdin = None if sys.stdin is None else sys.stdin.buffer
    summary = Summary()
    shown: list[ShownRow] = []
    waiting: list[Sequence[str]] = [view.COLUMNS]
    terminal = is_terminal(sys.stdout) and not as_json
    most = max(show if terminal else 0, _MOST_IN_PAGE if page else 0)
    with open_lines(Path(a), stdin) as left, open_lines(Path(b), stdin) as right:
        known, words = changes(surroundings(Path(a), left.first), surroundings(Path(b), right.first))
        names = left.name, right.name
        for found in differences(left, right, known, summary):
            if len(shown) < most:
                shown.append(_shown(found))
            if as_json:
                out_json(_document(found))
            elif not terminal:
                waiting.append(_columns(found))
                if len(waiting) >= _AT_A_TIME:
                    view.show_columns(waiting)
                    waiting.clear()
    facts = _facts(summary, words, names)
    if as_json:
        out_json({"summary": {**summary.document(), "changes": words}})
    elif terminal:
        rest = summary.different - min(show, len(shown))
        view.show_rows(names, shown[:show], facts)
        if rest and show:
            note(f"{rest} more: --show {summary.different}, or --html FILE")
    else:
        view.show_columns(waiting if summary.different else [])
        for fact in facts:
            note(fact)
    if page is not None:
        from openllama_cli.terminal.views.saved.diff_page import page as parts

        hidden = summary.different - len(shown)
        more = [f"only the first {len(shown)} of the rows that differ are on this page"] if hidden else []
        save(page, "".join(parts(names, shown, [*facts, *more])))
        note(f"wrote {html}")
    ctx.exit(1 if summary.different else 0)


def _facts(summary: "Summary", words: list[str], names: tuple[str, str]) -> list[str]:
    """What there is to say of all rows, a line each."""
    rows = summary.equal + summary.different
    if not summary.different:
        found = [f"all {rows} rows are equal" if rows != 1 else "the row is equal"]
    else:
        causes = ", ".join(f"{count} {_CAUSES.get(cause, cause)}" for cause, count in summary.causes.most_common())
        found = [f"{summary.equal} of {rows} rows equal, {summary.different} not: {causes}"]
        found[0] = found[0].replace("only in A", f"only in {names[0]}").replace("only in B", f"only in {names[1]}")
    if not summary.equal and summary.causes.keys() == {"only in A", "only in B"}:
        found.append("no custom_id is in both")
    if summary.logprob_difference is not None:
        found.append(f"largest difference of a log-probability before texts part: {summary.logprob_difference:.2g}")
    return found + words


# As they follow a count.
_CAUSES = {
    "error": "with an error on one side",
    "prompt": "with another prompt",
    "options": "under other options",
    "model": "of another model",
    "text": "in text only, as far as the files tell",
}


def _document(found: "Difference") -> dict[str, object]:
    sides = {
        name: None
        if entry is None
        else {field: getattr(entry, field) for field in ("prompt", "text", "finish_reason", "error", "score")}
        for name, entry in (("a", found.a), ("b", found.b))
    }
    parting = None if found.divergence is None else found.divergence.document()
    return {"custom_id": found.key, "cause": found.cause, "divergence": parting, **sides}


def _columns(found: "Difference") -> list[str]:
    parting = found.divergence
    if parting is None:
        scores = ["" if side is None or side.score is None else repr(side.score) for side in (found.a, found.b)]
        return [found.key, found.cause, "score" if any(scores) else "", "", *scores, "", ""]
    margins = ["" if side is None or side.margin is None else f"{side.margin:.4f}" for side in (parting.a, parting.b)]
    return [found.key, found.cause, parting.unit, str(parting.place), _name(parting.a), _name(parting.b), *margins]


def _name(side: "Candidate | None") -> str:
    if side is None:
        return ""
    return side.text if side.text is not None else str(side.id)


def _shown(found: "Difference") -> "ShownRow":
    from openllama_cli.terminal.views.diff import ShownRow, ShownText

    a, b = found.a, found.b
    prompts = [entry.prompt for entry in (a, b) if entry is not None and entry.prompt is not None]
    texts = []
    for entry, name in ((a, "A"), (b, "B")):
        if entry is None or entry.text is None:
            texts.append(ShownText(None, f"not in {name}" if entry is None else _without_text(entry)))
        else:
            texts.append(ShownText((f"{entry.prompt}" if found.cause == "prompt" else "") + entry.text))
    common, place = found.common, _place(found)
    if found.cause == "prompt":
        from openllama_cli.compare.difference import common_beginning

        common, prompts = common_beginning(texts[0].text or "", texts[1].text or ""), []
    return ShownRow(found.key, found.cause, place, prompts[0] if prompts else None, texts[0], texts[1], common)


def _without_text(entry: "Entry") -> str:
    return f"error: {entry.error}" if entry.score is None else f"log-probability {entry.score:.6g}"


def _place(found: "Difference") -> str:
    """Where the texts part, in words: "token 5: " blue" 81.4 %, " gray" 15.1 %; margin 1.69"."""
    parting = found.divergence
    if parting is None:
        return _reasons(found)
    sides = [_side(parting.a), _side(parting.b)]
    margins = [side.margin for side in (parting.a, parting.b) if side is not None and side.margin is not None]
    margin = "; margin " + " and ".join(f"{value:.2g}" for value in margins) if margins else ""
    return f"{parting.unit} {parting.place + 1}: {sides[0]}, {sides[1]}{margin}"


def _reasons(found: "Difference") -> str:
    a, b = found.a, found.b
    if a is None or b is None or a.finish_reason == b.finish_reason or found.cause == "error":
        return ""
    return f"finish_reason {a.finish_reason}, {b.finish_reason}"


def _side(side: "Candidate | None") -> str:
    if side is None:
        return "the end"
    named = f"token {side.id}" if side.text is None else f'"{one_line(side.text)}"'
    return named if side.logprob is None else f"{named} {100 * math.exp(side.logprob):.1f} %"
