"""Annotating texts with a small trained pipeline and with blank ones: what spaCy reports, at the right offsets."""

import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.annotation import annotate as module
from openllama_cli.annotation.annotate import annotate, annotate_completions, annotate_rows
from openllama_cli.annotation.documents import DEFAULT_KINDS, KINDS, Annotated, lacking
from openllama_cli.annotation.pipeline import Choice, Pipeline, open_pipeline
from openllama_cli.errors import OlcError
from tests.support.forked import Forked
from tests.support.pipelines import pipeline, trained

__all__ = ["pipeline", "trained"]
ROOT = Path(__file__).parent.parent.parent
TEXT = "Anna sees the big whales in Berlin. Hiro likes the big dog in Tokyo."
LANGUAGES = ("en", "de", "es", "hi", "ja")
# Outside the Basic Multilingual Plane, with joiners, marks, flags: one code point or several, never what they look like.
EMOJI = "🐋 👩🏽‍🚀🇩🇪 e\u0301 👨‍👩‍👧"


def annotated(pipeline: Pipeline, text: str, kinds: tuple[str, ...] = DEFAULT_KINDS) -> dict[str, Any]:
    return Annotated(text, list(annotate(pipeline, [text], kinds))).document(kinds)


def words(found: dict[str, Any]) -> list[str]:
    return [found["text"][token["start"] : token["end"]] for token in found["tokens"]]


def test_a_trained_pipeline_gives_every_kind(pipeline: Pipeline) -> None:
    found = annotated(pipeline, TEXT, KINDS)
    assert words(found)[:8] == ["Anna", "sees", "the", "big", "whales", "in", "Berlin", "."]
    first = found["tokens"][:8]
    assert [token["pos"] for token in first] == ["PROPN", "VERB", "DET", "ADJ", "NOUN", "ADP", "PROPN", "PUNCT"]
    assert [token["lemma"] for token in first] == ["Anna", "see", "the", "big", "whale", "in", "Berlin", "."]
    assert [token["dep"] for token in first] == ["nsubj", "ROOT", "det", "amod", "dobj", "prep", "pobj", "punct"]
    assert [token["head"] for token in first] == [1, 1, 4, 4, 1, 1, 5, 1]
    entities = [(TEXT[entity["start"] : entity["end"]], entity["label"]) for entity in found["ents"]]
    assert entities == [("Anna", "PERSON"), ("Berlin", "GPE"), ("Hiro", "PERSON"), ("Tokyo", "GPE")]
    assert [TEXT[sentence["start"] : sentence["end"]] for sentence in found["sents"]] == [TEXT[:35], TEXT[36:]]
    assert first[3]["vector"] == [0, 0, 0, 0, 1, 0, 0, 0]
    assert first[1]["vector"] is None
    assert lacking(list(annotate(pipeline, [TEXT], KINDS)), KINDS) == ()


def test_the_document_is_what_doc_to_json_gives_and_from_json_takes(pipeline: Pipeline) -> None:
    from spacy.tokens import Doc

    text = f"{TEXT}\n\n  {EMOJI} Clara hears the big sharks in Delhi."
    found = annotated(pipeline, text)
    doc = pipeline.nlp(text)
    assert found == doc.to_json()
    again = Doc(pipeline.nlp.vocab).from_json(found, validate=True)
    seen, expected = ([(t.text, t.idx, t.lemma_, t.dep_, t.head.i) for t in each] for each in (again, doc))
    assert seen == expected


def test_kinds_choose_what_is_told_and_not_what_is_found(pipeline: Pipeline) -> None:
    whole = annotated(pipeline, TEXT)
    assert annotated(pipeline, TEXT, ("entities",)) == {
        "text": TEXT,
        "ents": whole["ents"],
        "tokens": [{name: token[name] for name in ("id", "start", "end")} for token in whole["tokens"]],
    }
    lemmas = annotated(pipeline, TEXT, ("lemma",))
    assert set(lemmas) == {"text", "sents", "tokens"}
    assert [set(token) for token in lemmas["tokens"]] == [{"id", "start", "end", "lemma"}] * len(whole["tokens"])
    assert {"dep", "head"} <= set(annotated(pipeline, TEXT, ("dependencies",))["tokens"][0])


def test_what_a_pipeline_lacks_is_not_there_and_named() -> None:
    blank = open_pipeline(Choice(language="xx"))
    pieces = list(annotate(blank, [TEXT], KINDS))
    assert lacking(pieces, KINDS) == ("pos", "lemma", "entities", "dependencies", "vectors")
    assert set(Annotated(TEXT, pieces).document(KINDS)) == {"text", "sents", "tokens"}
    assert set(pieces[0].tokens[0]) == {"id", "start", "end"}


def test_the_network_state_is_no_vector(trained: Path) -> None:
    from spacy.vectors import Vectors

    bare = open_pipeline(Choice(trained))
    bare.nlp.vocab.vectors = Vectors(strings=bare.nlp.vocab.strings)
    assert bare.nlp("whale").vector.any(), "spaCy answers with its tensor"
    pieces = list(annotate(bare, ["whale"], KINDS))
    assert lacking(pieces, KINDS) == ("vectors",)
    assert "vector" not in pieces[0].tokens[0]


def test_odd_texts_keep_their_offsets(pipeline: Pipeline) -> None:
    for text in (" ", "\n\n", "🐋", "\x00\x1b[31m", "a\r\nb\tc", "\ufeffx", "\u202eabc"):
        found = annotated(pipeline, text, KINDS)
        assert found["text"] == text
        assert [(token["start"], len(word)) for token, word in zip(found["tokens"], words(found), strict=True)] == [
            (token.idx, len(token)) for token in pipeline.nlp(text)
        ]
    assert annotated(pipeline, "", KINDS) == {"text": "", "tokens": []}


# -- languages ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=LANGUAGES)
def blank(request: pytest.FixtureRequest) -> Pipeline:
    """A blank pipeline; those of German and Spanish without their tables of lemmas, which take seconds to read."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param in ("de", "es"):
            patch.setattr("openllama_cli.annotation.pipeline._add_lookup_lemmas", lambda nlp: None)
        return open_pipeline(Choice(language=request.param))


def test_offsets_are_code_points_in_every_example_language_and_with_emoji(blank: Pipeline, pipeline: Pipeline) -> None:
    lines = (ROOT / "prompts" / "examples" / f"{blank.nlp.lang}.txt").read_text().splitlines()
    text = f" {EMOJI}\n".join(lines) + f"\t{EMOJI}  {lines[0]}"
    for used in (blank, pipeline):
        found = annotated(used, text)
        doc = used.nlp(text)
        assert words(found) == [token.text for token in doc]
        # What lies between tokens is single spaces.
        places = [0, *(token[side] for token in found["tokens"] for side in ("start", "end")), len(text)]
        assert {text[end:start] for end, start in zip(places[::2], places[1::2], strict=True)} <= {"", " "}
        assert [(text[s["start"] : s["end"]]) for s in found["sents"]] == [sentence.text for sentence in doc.sents]
        for entity in found.get("ents", []):
            assert text[entity["start"] : entity["end"]] in {span.text for span in doc.ents}


def test_pieces_have_offsets_in_the_whole_text(blank: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / "prompts" / "examples" / f"{blank.nlp.lang}.txt").read_text()
    text = f"{EMOJI}\n\n".join([lines] * 5)
    whole = annotated(blank, text)
    monkeypatch.setattr(module, "PIECE", 80)
    monkeypatch.setattr(module, "_JAPANESE_PIECE", 80)
    pieces = list(annotate(blank, [text], DEFAULT_KINDS))
    assert len(pieces) > 5
    in_pieces = Annotated(text, pieces).document(DEFAULT_KINDS)
    assert words(in_pieces) == words(whole)
    assert in_pieces["tokens"] == whole["tokens"]


def test_blank_pipelines_have_lemmas_where_there_is_a_table_and_say_how_to_have_more(blank: Pipeline) -> None:
    language = blank.nlp.lang
    text, lemma, found, install = {
        "en": ("dogs", "dog", "tokens, sentences and lemmas from a table", "en_core_web_sm"),
        "de": ("gingen", None, "tokens and sentences", "de_core_news_sm"),
        "es": ("perros", None, "tokens and sentences", "es_core_news_sm"),
        "ja": ("動物", "動物", "tokens, sentences, parts of speech and lemmas", "ja_core_news_sm"),
        "hi": ("बड़ा", None, "tokens and sentences", "xx_ent_wiki_sm"),
    }[language]
    assert annotated(blank, text)["tokens"][0].get("lemma") == lemma
    assert blank.notes[0] == (
        f"no trained pipeline for {language} is installed; a blank one finds {found}. "
        f"For more: python -m spacy download {install}"
    )


def test_japanese_texts_may_be_longer_than_its_tokenizer_takes() -> None:
    text = "一番大きい動物は何ですか？🐋" * 1200
    japanese = open_pipeline(Choice(language="ja"))
    with pytest.raises(Exception, match="49149"):
        japanese.nlp(text)
    assert "".join(words(annotated(japanese, text))) == text


# -- pieces, batches, memory ----------------------------------------------------------------------------------------


def test_long_texts_are_found_the_same_in_pieces(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n\n".join([TEXT, "Boris meets the big horse in Madrid.", EMOJI] * 12)
    whole = annotated(pipeline, text)
    monkeypatch.setattr(module, "PIECE", 150)
    pieces = list(annotate(pipeline, [text], DEFAULT_KINDS))
    assert len(pieces) > 8
    assert all(piece.last == (piece is pieces[-1]) for piece in pieces)
    in_pieces = Annotated(text, pieces).document(DEFAULT_KINDS)
    found = words(in_pieces)
    assert found == words(whole)
    assert [token["id"] for token in in_pieces["tokens"]] == list(range(len(found)))
    people = [entity for entity in in_pieces["ents"] if text[entity["start"] : entity["end"]] == "Boris"]
    assert [entity["label"] for entity in people] == ["PERSON"] * 12
    horses = [token for token, word in zip(in_pieces["tokens"], found, strict=True) if word == "horse"]
    assert {found[horse["head"]] for horse in horses if horse["dep"] == "dobj"} == {"meets"}


def test_texts_are_annotated_the_same_alone_and_together(pipeline: Pipeline) -> None:
    rng = random.Random(0)
    vocabulary = [*TEXT.split(), "🐋", "Boris", "unheard-of", "\n"]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randrange(0, 30))) for _ in range(25)]
    together = annotate_rows(pipeline, texts, KINDS)
    assert together == [row for text in texts for row in annotate_rows(pipeline, [text], KINDS)]
    # Rows have their text already.
    assert set(annotate_rows(pipeline, [TEXT], ("entities",))[0]) == {"ents"}
    assert set(annotate_rows(pipeline, [TEXT], ("entities", "pos"))[0]) == {"ents", "sents", "tokens"}


def test_the_vocabulary_does_not_grow_with_the_texts(pipeline: Pipeline) -> None:
    def run(seed: int) -> int:
        rng = random.Random(seed)
        text = " ".join("".join(rng.choices("abcdefgh", k=9)) for _ in range(300))
        assert len(annotated(pipeline, text)["tokens"]) == 300
        return len(pipeline.nlp.vocab.strings)

    run(0)
    before = run(1)
    assert run(2) == before


MEASURE = """
import resource, sys
from pathlib import Path
from openllama_cli.annotation.annotate import annotate
from openllama_cli.annotation.pipeline import Choice, open_pipeline
pipeline = open_pipeline(Choice(Path(sys.argv[1])))
sentence = f"Anna sees the big {'whales' * 9} in Berlin. 🐋 "
text = sentence * (LENGTH // len(sentence))
pipeline.nlp.max_length = LENGTH - len(sentence)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
list(annotate(pipeline, [text[:2000]], ["entities"]))
before, tokens = peak(), 0
for piece in annotate(pipeline, [text], ["tokens", "entities"]):
    tokens += len(piece.tokens)
print(peak() - before)
assert tokens == 9 * (len(text) // len(sentence)), tokens
sys.exit()
"""


@pytest.mark.slow
def test_a_text_beyond_spacys_limit_is_worked_on_in_bounded_memory(trained: Path, tmp_path: Path) -> None:
    import spacy

    # The entity recognizer is what needs the memory; the rest would need as long again.
    nlp = spacy.load(trained, exclude=["parser", "tagger", "morphologizer", "lemmatizer"])
    nlp.to_disk(tmp_path / "ner")
    run = Forked(str(tmp_path / "ner"), code=MEASURE.replace("LENGTH", "330_000"))
    assert run.wait() == 0, run.err.decode()
    assert float(run.out) < 40, "MiB above what a short text takes; at once it would be 87"


# -- pipelines that go wrong ----------------------------------------------------------------------------------------


@pytest.fixture
def failing() -> Pipeline:
    from spacy.language import Language

    @Language.component("fails_on_bad")
    def component(doc: Any) -> Any:
        if "bad" in doc.text:
            raise RuntimeError("no such thing\nas bad")
        return doc

    made = open_pipeline(Choice(language="xx"))
    made.nlp.add_pipe("fails_on_bad")
    return made


def test_a_component_that_fails_is_an_expected_error_and_spares_other_texts(failing: Pipeline) -> None:
    with pytest.raises(OlcError, match="no such thing") as raised:
        list(annotate(failing, ["good", "bad"], DEFAULT_KINDS))
    assert raised.value.code == "annotation_failed"
    assert "\n" not in raised.value.cause
    found = annotate_completions(failing, ["good", "bad", "fine"], ("tokens",))
    assert [done.error is None for done in found] == [True, False, True]
    assert found[1].document(("tokens",))["error"]["code"] == "annotation_failed"
    assert words(found[2].document(("tokens",))) == ["fine"]


def test_a_tokenizer_that_changes_the_text_is_refused() -> None:
    from spacy.tokens import Doc

    made = open_pipeline(Choice(language="xx"))
    made.nlp.tokenizer = lambda text: Doc(made.nlp.vocab, text.lower().split())
    with pytest.raises(OlcError, match="changes the text"):
        list(annotate(made, ["Two  Words"], DEFAULT_KINDS))


def test_warnings_of_components_become_notes() -> None:
    made = open_pipeline(Choice(language="xx"))
    made.notes.clear()

    def warns(doc: Any) -> Any:
        warnings.warn("[W999] odd\nmore", stacklevel=1)
        return doc

    made.nlp._components.append(("warns", warns))
    list(annotate(made, ["one", "two"], DEFAULT_KINDS))
    assert made.notes == ["[W999] odd"]
