"""Pictures of annotations as self-contained SVG: no font, script or style is fetched.

spaCy's displaCy draws dependencies, one sentence below the other. It draws entities as HTML only, so they are drawn here, in
its colors.
"""

import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

from openllama_cli.annotation.pipeline import Pipeline, noted

MOST_SENTENCES = 50
_COLUMNS = 88
_CELL, _LINE, _FONT = 9.0, 34, 15
_MARGIN = 20
# Characters that XML 1.0 cannot hold.
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@cache
def _colors() -> dict[str, str]:
    """displaCy's colors of entity labels, and PER's, which it lacks; dark letters are readable on each."""
    from spacy.displacy.render import EntityRenderer

    colors: dict[str, str] = EntityRenderer().colors
    return {**colors, "PER": colors["PERSON"]}


def color(label: str) -> str:
    """The color of an entity label as "#rrggbb": displaCy's if it has one, otherwise always the same one."""
    others = list(dict.fromkeys(_colors().values()))
    return _colors().get(label.upper()) or others[zlib.crc32(label.encode()) % len(others)]


def dependency_svg(pipeline: Pipeline, document: Mapping[str, Any]) -> tuple[str, int]:
    """displaCy's picture of the dependency trees of an `Annotated.document`, and how many sentences it omits.

    It shows the first 50 sentences, with punctuation attached to the word before it, as displaCy does.
    """
    from spacy import displacy
    from spacy.displacy.render import DependencyRenderer
    from spacy.tokens import Doc

    plain = {"text", "sents", "tokens"}
    with noted(pipeline.notes), pipeline.nlp.memory_zone():
        doc = Doc(pipeline.nlp.vocab).from_json({name: value for name, value in document.items() if name in plain})
        sentences = [sentence for sentence in doc.sents if sentence.text.strip()] if len(doc) else []
        parts: list[tuple[str, float, float]] = []
        for number, sentence in enumerate(sentences[:MOST_SENTENCES]):
            parsed = displacy.parse_deps(sentence)
            # displaCy escapes words, but neither tags nor labels.
            words = [{"text": _shown(word["text"]), "tag": escape(word["tag"])} for word in parsed["words"]]
            arcs = [{**arc, "label": escape(_shown(arc["label"]))} for arc in parsed["arcs"]]
            renderer = DependencyRenderer()
            renderer.lang, renderer.direction = parsed["settings"]["lang"], parsed["settings"]["direction"]
            # `displacy.render` uses random ids; fixed ones give the same picture for the same text.
            drawn = renderer.render_svg(f"sentence-{number}", words, arcs)
            parts.append((drawn.strip(), float(renderer.width), float(renderer.height)))
    return _stacked(parts), max(0, len(sentences) - MOST_SENTENCES)


def _stacked(parts: Sequence[tuple[str, float, float]]) -> str:
    """Pictures below each other, each a nested svg. parts: (svg, width, height)."""
    if len(parts) == 1:
        return parts[0][0] + "\n"
    width, top, nested = max((part[1] for part in parts), default=1.0), 0.0, []
    for svg, _, height in parts:
        nested.append(svg.replace("<svg ", f'<svg y="{top:g}" ', 1))
        top += height
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{top:g}" style="background: #ffffff">'
    return "\n".join([begin, "\n".join(nested), "</svg>\n"])


def entity_svg(text: str, entities: Sequence[Mapping[str, Any]]) -> str:
    """A text with its entities marked and labeled. entities: as in `Doc.to_json`, offsets into the text.

    Lines break after 88 columns. Every run of letters has a fixed length, so that the marks fit in any font.
    """
    lines: list[list[tuple[str, str]]] = [[]]
    column = 0
    for content, label in _runs(text, entities):
        # Entities are not broken unless they are longer than a line.
        for chunk in [content] if label else re.split(r"(\n)|(?<=\s)(?=\S)", content):
            if chunk == "\n":
                lines.append([])
                column = 0
                continue
            for part in _fitting(chunk or "", _COLUMNS - len(label) - 3):
                cells = _cells(part) + (len(label) + 3 if label else 0)
                if column and column + cells > _COLUMNS:
                    lines.append([])
                    column = 0
                lines[-1].append((part, label))
                column += cells
    height = 2 * _MARGIN + _LINE * len(lines)
    width = 2 * _MARGIN + _CELL * _COLUMNS
    body = "".join(_line(line, _MARGIN + _LINE * number) for number, line in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="monospace" font-size="{_FONT}" fill="#000000">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}</svg>\n'
    )


def _runs(text: str, entities: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The text as runs with the label of their entity, "" for none."""
    runs, place = [], 0
    for entity in entities:
        runs.append((text[place : entity["start"]], ""))
        runs.append((text[entity["start"] : entity["end"]].replace("\n", " "), str(entity["label"])))
        place = entity["end"]
    return [run for run in [*runs, (text[place:], "")] if run[0]]


def _fitting(text: str, columns: int) -> list[str]:
    """A text in parts of at most so many columns."""
    parts, width = [""], 0
    for character in text:
        cells = _cells(character)
        if width + cells > max(columns, 2):
            parts.append("")
            width = 0
        parts[-1] += character
        width += cells
    return [part for part in parts if part]


def _line(runs: Sequence[tuple[str, str]], top: float) -> str:
    drawn, x = [], float(_MARGIN)
    baseline = top + _LINE / 2 + _FONT / 3
    for content, label in runs:
        width = _CELL * _cells(content)
        if label:
            whole = width + _CELL * (len(label) + 2)
            drawn.append(
                f'<rect x="{x:g}" y="{top + 4:g}" width="{whole:g}" height="{_LINE - 8}" rx="5" fill="{color(label)}"/>'
            )
            x += _CELL / 2
        drawn.append(_text(content, x, baseline, width))
        x += width
        if label:
            drawn.append(_text(label, x + _CELL / 2, baseline, _CELL * len(label), ' font-weight="bold" font-size="12"'))
            x += _CELL * (len(label) + 2.5)
    return "".join(f"{element}\n" for element in drawn if element)


def _text(content: str, x: float, y: float, width: float, style: str = "") -> str:
    if not content.strip():
        return ""
    return (
        f'<text x="{x:g}" y="{y:g}" textLength="{width:g}" lengthAdjust="spacingAndGlyphs" xml:space="preserve"{style}>'
        f"{escape(_shown(content))}</text>"
    )


def _shown(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)


def _cells(text: str) -> int:
    """About how many columns a text takes in a monospaced font."""
    visible = [character for character in text if unicodedata.category(character) not in ("Mn", "Me", "Cf")]
    return len(visible) + sum(unicodedata.east_asian_width(character) in "WF" for character in visible)
