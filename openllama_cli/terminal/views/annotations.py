"""Annotated text: entities in color, tokens in a table and sentences as trees on a terminal; tab-separated lines in a pipe.

The result of `olc annotate` goes to stdout, the annotations of a completion to stderr.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from openllama_cli.terminal.streams import drop, is_terminal, message, one_line, out, stderr_console, stdout_console, visible

_COLUMNS = {"pos": ("pos", "tag", "morph"), "lemma": ("lemma",), "dependencies": ("dep", "head")}
# Tokens, entities and sentences as in spaCy's `Doc.to_json`.
Entries = Sequence[dict[str, Any]]


class AnnotationView:
    """Writes annotations of texts, piece by piece, to one of the streams.

    kinds: what is shown. color: the color of an entity label, "#rrggbb".
    """

    def __init__(
        self, kinds: Iterable[str], color: Callable[[str], str], stream: Literal["stdout", "stderr"] = "stdout"
    ) -> None:
        self._kinds, self._color, self._stream = frozenset(kinds), color, stream
        self._terminal = is_terminal(sys.stdout if stream == "stdout" else sys.stderr)
        self._header: tuple[str, ...] = ()
        self._sentences = 0

    def show(self, text: str, start: int, tokens: Entries, ents: Entries, sents: Entries) -> None:
        """Write the piece of a text that begins at code point `start`; offsets are of the whole text."""
        if start == 0:
            self._sentences = 0
        if not self._terminal:
            self._lines(text, tokens, ents, sents)
            return
        parts: list[Iterable[Text | Table]] = []
        if "entities" in self._kinds:
            parts.append([self._marked(text, start, tokens[-1]["end"] if tokens else start, ents)])
        if self._kinds & {"tokens", "pos", "lemma", "vectors"}:
            parts.append([self._table(text, tokens, sents)])
        if "dependencies" in self._kinds:
            heads = [token for token in tokens if "head" in token]
            first = tokens[0]["id"] if tokens else 0
            parts.append(tree([(_word(text, t), t.get("dep", ""), t.get("pos", ""), t["head"] - first) for t in heads]))
        for number, part in enumerate(parts):
            if number:
                self.blank()
            for line in part:
                self._print(line)

    def blank(self) -> None:
        """An empty line between parts."""
        self._print(Text())

    def _lines(self, text: str, tokens: Entries, ents: Entries, sents: Entries) -> None:
        """Tab-separated lines; the header is written once."""
        columns: tuple[str, ...] = ("start", "end", "label", "text")
        rows: list[Sequence[str]] = [(str(e["start"]), str(e["end"]), e["label"], _word(text, e)) for e in ents]
        if self._kinds - {"entities"}:
            names = [name for kind in _COLUMNS if kind in self._kinds for name in _COLUMNS[kind]]
            extra = {"entity": _entity_tags(tokens, ents)} if "entities" in self._kinds else {}
            if "vectors" in self._kinds:
                extra["vector"] = [" ".join(map(str, token["vector"] or ())) for token in tokens]
            columns = ("id", "sentence", "start", "end", "token", *names, *extra)
            begins = {sentence["start"] for sentence in sents}
            rows = []
            for token, *cells in zip(tokens, *extra.values(), strict=True):
                self._sentences += token["start"] in begins
                places = (str(token["id"]), str(self._sentences or ""), str(token["start"]), str(token["end"]))
                rows.append((*places, _word(text, token), *(str(token.get(name, "")) for name in names), *cells))
        written = rows if self._header == columns else [columns, *rows]
        self._header = columns
        self._write("".join("\t".join(map(one_line, line)) + "\n" for line in written))

    def _marked(self, text: str, start: int, end: int, ents: Entries) -> Text:
        """The text with its entities in color, or in brackets where there is no color."""
        console = stdout_console() if self._stream == "stdout" else stderr_console()
        colored = console.color_system is not None and not console.no_color
        shown = Text()
        for entity in ents:
            shown.append(visible(text[start : entity["start"]]))
            word, label, color = visible(_word(text, entity)), one_line(entity["label"]), self._color(entity["label"])
            if colored:
                # The blank between them is colored too, so that word and label look like one.
                shown.append(f"{word} ", style=f"black on {color}")
                shown.append(label, style=f"bold black on {color}")
            else:
                shown.append(f"[{word} {label}]")
            start = entity["end"]
        return shown.append(visible(text[start:end].rstrip("\n")))

    def _table(self, text: str, tokens: Entries, sents: Entries) -> Table:
        """A token per row, an empty row between sentences."""
        names = [name for kind in ("pos", "lemma") if kind in self._kinds for name in _COLUMNS[kind] if name != "morph"]
        view = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("start", "token", *names, *(["vector"] if "vectors" in self._kinds else [])):
            view.add_column(column, justify="right" if column == "start" else "left", overflow="fold")
        begins = {sentence["start"] for sentence in sents}
        for token in tokens:
            if view.row_count and token["start"] in begins:
                view.add_row()
            if _word(text, token).strip():
                cells = [str(token["start"]), _word(text, token), *(token.get(name, "") for name in names)]
                view.add_row(*(Text(one_line(cell)) for cell in [*cells, *([_norm(token)] * ("vectors" in self._kinds))]))
        return view

    def _print(self, what: Text | Table) -> None:
        if self._stream == "stdout":
            stdout_console().print(what, soft_wrap=False)
        else:
            message(what)

    def _write(self, text: str) -> None:
        if self._stream == "stdout":
            out(text)
            return
        try:
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()
        except OSError:
            drop(sys.stderr)


def tree(nodes: Sequence[tuple[str, str, str, int]]) -> Iterator[Text]:
    """The dependency trees of some sentences: every head above the words that depend on it, those in their order.

    nodes: word, relation, part of speech, and the index of the head among the nodes; a root is its own head.
    """
    children: list[list[int]] = [[] for _ in nodes]
    roots: list[int] = []
    for place, node in enumerate(nodes):
        (roots if node[3] == place else children[node[3]]).append(place)
    # A list as the stack: a sentence may be deeper than Python's limit of recursion.
    waiting = [(place, "", "") for place in reversed(roots)]
    while waiting:
        place, branch, indent = waiting.pop()
        word, relation, pos, _ = nodes[place]
        line = Text(branch, style="dim", no_wrap=True, overflow="ellipsis")
        line.append(one_line(word), style="not dim" if branch else "not dim bold")
        line.append(f"  {one_line(relation)}", style="not dim cyan")
        yield line.append(f" {one_line(pos)}" if pos else "")
        last = len(children[place]) - 1
        for number, child in reversed(list(enumerate(children[place]))):
            branch, below = ("└─ ", "   ") if number == last else ("├─ ", "│  ")
            waiting.append((child, indent + branch, indent + below))


def _word(text: str, entry: dict[str, Any]) -> str:
    return text[entry["start"] : entry["end"]]


def _entity_tags(tokens: Entries, ents: Entries) -> list[str]:
    """B-LABEL for the first token of an entity, I-LABEL for its other tokens, "" for tokens outside."""
    remaining = iter(chain(ents, [None]))
    entity = next(remaining)
    tags = []
    for token in tokens:
        while entity is not None and entity["end"] <= token["start"]:
            entity = next(remaining)
        inside = entity is not None and entity["start"] <= token["start"]
        tags.append(f"{'B' if token['start'] == entity['start'] else 'I'}-{entity['label']}" if entity and inside else "")
    return tags


def _norm(token: dict[str, Any]) -> str:
    vector = token.get("vector")
    return "unknown word" if vector is None else f"{len(vector)} numbers, length {sum(x * x for x in vector) ** 0.5:.3g}"
