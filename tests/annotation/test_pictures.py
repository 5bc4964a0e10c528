"""Pictures: self-contained XML with the words, arcs and marks of the text."""

import re
from typing import Any
from xml.etree import ElementTree

from openllama_cli.annotation.annotate import annotate
from openllama_cli.annotation.documents import DEFAULT_KINDS, Annotated
from openllama_cli.annotation.pictures import MOST_SENTENCES, color, dependency_svg, entity_svg
from openllama_cli.annotation.pipeline import Pipeline
from tests.support.pipelines import pipeline, trained

__all__ = ["pipeline", "trained"]
SVG = "{http://www.w3.org/2000/svg}"
TEXT = "Anna sees the big whales in Berlin. Hiro likes the big dog in Tokyo."


def dependencies(pipeline: Pipeline, text: str) -> tuple[ElementTree.Element, int]:
    picture, left_out = dependency_svg(
        pipeline, Annotated(text, list(annotate(pipeline, [text], DEFAULT_KINDS))).document(DEFAULT_KINDS)
    )
    alone(picture)
    return ElementTree.fromstring(picture), left_out


def alone(picture: str) -> None:
    """Nothing in it is fetched from anywhere."""
    assert set(re.findall(r"https?://[^\"']+", picture)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"url\(|@import|<script|<image", picture)


def texts(root: ElementTree.Element, kind: str) -> list[str]:
    return [element.text or "" for element in root.iter() if element.get("class") == kind]


def test_one_sentence_is_displacys_picture(pipeline: Pipeline) -> None:
    from spacy import displacy

    sentence = TEXT[:35]
    root, left_out = dependencies(pipeline, sentence)
    theirs = ElementTree.fromstring(displacy.render(pipeline.nlp(sentence), style="dep", jupyter=False))
    for kind in ("displacy-word", "displacy-tag", "displacy-label"):
        assert texts(root, kind) == texts(theirs, kind)
    assert texts(root, "displacy-word") == ["Anna", "sees", "the", "big", "whales", "in", "Berlin."]
    assert [root.get("width"), root.get("height")] == [theirs.get("width"), theirs.get("height")]
    assert left_out == 0


def test_sentences_stand_under_one_another_and_the_first_are_shown(pipeline: Pipeline) -> None:
    root, _ = dependencies(pipeline, TEXT)
    # Its ids are not random, as displaCy's are.
    assert ElementTree.tostring(root) == ElementTree.tostring(dependencies(pipeline, TEXT)[0])
    first, second = root.findall(f"{SVG}svg")
    assert float(second.get("y", 0)) >= float(first.get("height", 0)) > 0
    assert float(root.get("height", 0)) == float(first.get("height", 0)) + float(second.get("height", 0))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    root, left_out = dependencies(pipeline, f"{TEXT} " * 30)
    assert len(root.findall(f"{SVG}svg")) == MOST_SENTENCES
    assert left_out == 60 - MOST_SENTENCES


def test_hostile_and_odd_texts_tags_and_labels_make_valid_xml(pipeline: Pipeline) -> None:
    for text in ("<b>&amp; \x1b[31m\x00 ]]>", "🐋\u202e\ufffe", "\n", "", "日本 बड़ा"):
        dependencies(pipeline, text)
        picture = entity_svg(text, [{"start": 0, "end": len(text), "label": '<&">'}] if text else [])
        alone(picture)
        ElementTree.fromstring(picture)
    found: dict[str, Any] = Annotated(TEXT, list(annotate(pipeline, [TEXT], DEFAULT_KINDS))).document(DEFAULT_KINDS)
    found["tokens"][0]["dep"] = "<script>&"
    picture, _ = dependency_svg(pipeline, found)
    assert "<script>&" in texts(ElementTree.fromstring(picture), "displacy-label")


def test_entities_are_marked_and_labeled_in_their_places() -> None:
    entities = [{"start": 0, "end": 4, "label": "PERSON"}, {"start": 28, "end": 34, "label": "GPE"}]
    root = ElementTree.fromstring(entity_svg(TEXT, entities))
    marks = [rect for rect in root.findall(f"{SVG}rect") if rect.get("rx")]
    assert [mark.get("fill") for mark in marks] == [color("PERSON"), color("GPE")]
    for mark, word, label in zip(marks, ("Anna", "Berlin"), ("PERSON", "GPE"), strict=True):
        left = float(mark.get("x", 0))
        right = left + float(mark.get("width", 0))
        top = float(mark.get("y", 0))
        inside = [
            element.text
            for element in root.findall(f"{SVG}text")
            if left <= float(element.get("x", 0)) < right and top < float(element.get("y", 0)) < top + 34
        ]
        assert inside == [word, label]
    words = [element.text or "" for element in root.findall(f"{SVG}text") if element.text not in ("PERSON", "GPE")]
    assert "".join(words).replace(" ", "") == TEXT.replace(" ", "")


def test_long_texts_break_into_lines_within_the_picture() -> None:
    text = "The largest animal on Earth is the blue whale 🐋, 一番大きい動物です。 " * 8 + "x" * 300
    root = ElementTree.fromstring(entity_svg(text, [{"start": len(text) - 250, "end": len(text), "label": "NAME"}]))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for element in root.findall(f"{SVG}text"):
        assert float(element.get("x", 0)) + float(element.get("textLength", 0)) <= width
        assert float(element.get("y", 0)) < height
    assert len({element.get("y") for element in root.findall(f"{SVG}text")}) > 10


def test_labels_have_colors_of_their_own_that_stay() -> None:
    assert color("GPE") == "#feca74"
    assert color("PER") == color("PERSON") != color("MY_LABEL") == color("MY_LABEL")
    assert re.fullmatch("#[0-9a-f]{6}", color("MY_LABEL"))
    assert len({color(f"LABEL_{number}") for number in range(40)}) > 5
