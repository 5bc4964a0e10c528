"""The page of `olc diff --html`: one file without scripts, which loads nothing."""

from collections.abc import Iterator, Sequence
from html import escape

from openllama_cli.terminal.streams import one_line, visible
from openllama_cli.terminal.views.diff import ShownRow, ShownText

# Colors as the playground's (`serve/page/theme.css`); red and green have 4.5 to 1 on their grounds.
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ground: #f5f5f7; --ink: #1b1c22; --faint: #555763; --line: #dcdde4;
  --a: #a3142e; --a-ground: #fdeaed; --b: #116329; --b-ground: #e6f6ea; }
@media (prefers-color-scheme: dark) { :root { --paper: #1d1e24; --ground: #15161a; --ink: #e9e9ee; --faint: #a9abb8;
  --line: #34363f; --a: #ff9aa8; --a-ground: #3c1a21; --b: #7ee2a0; --b-ground: #14321f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--ground); color: var(--ink);
  font: 0.9375rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0 0 0.5rem; overflow-wrap: anywhere; }
h2 { font-size: 0.9375rem; margin: 0; overflow-wrap: anywhere; }
ul { margin: 0 0 1.5rem; padding: 0 0 0 1.25rem; }
article { margin: 0 0 1rem; padding: 0.75rem 1rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: 0.5rem; }
.cause { font-weight: 400; color: var(--faint); }
.place, .prompt { margin: 0.25rem 0 0; color: var(--faint); overflow-wrap: anywhere; }
.prompt { white-space: pre-wrap; font-family: ui-monospace, monospace; font-size: 0.8125rem; max-height: 12rem;
  overflow: auto; }
.sides { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.75rem; margin-top: 0.5rem; }
@media (max-width: 40rem) { .sides { grid-template-columns: minmax(0, 1fr); } }
.side { font: 0.8125rem/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0;
  unicode-bidi: isolate; tab-size: 4; }
.side b { display: block; font: 600 0.75rem/1.5 system-ui, sans-serif; color: var(--faint); }
.common { color: var(--faint); }
.a mark { color: var(--a); background: var(--a-ground); }
.b mark { color: var(--b); background: var(--b-ground); }
.missing { color: var(--faint); font-style: italic; }
"""


def page(names: tuple[str, str], rows: Sequence[ShownRow], facts: Sequence[str]) -> Iterator[str]:
    """The parts of the page. facts: what there is to say of all rows."""
    title = escape(one_line(f"{names[0]} and {names[1]}"))
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>olc diff: {title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<ul>\n"
    )
    yield "".join(f"<li>{escape(one_line(fact))}</li>\n" for fact in facts)
    yield "</ul>\n"
    for row in rows:
        yield f'<article>\n<h2>{escape(one_line(row.key))} <span class="cause">· {escape(row.cause)}</span></h2>\n'
        if row.place:
            yield f'<p class="place">{escape(visible(row.place))}</p>\n'
        if row.prompt:
            yield f'<p class="prompt" dir="auto">{escape(visible(row.prompt))}</p>\n'
        sides = zip("ab", names, (row.a, row.b), strict=True)
        yield f'<div class="sides">\n{"".join(_side(letter, name, side, row.common) for letter, name, side in sides)}</div>\n'
        yield "</article>\n"
    yield "</main>\n</body>\n</html>\n"


def _side(letter: str, name: str, side: ShownText, common: int) -> str:
    if side.text is None:
        shown = f'<span class="missing">{escape(one_line(side.missing))}</span>'
    else:
        rest = escape(visible(side.text[common:])) or "∎"
        shown = f'<span class="common">{escape(visible(side.text[:common]))}</span><mark>{rest}</mark>'
    return f'<div class="side {letter}"><b>{escape(one_line(name))}</b><bdi>{shown}</bdi></div>\n'
