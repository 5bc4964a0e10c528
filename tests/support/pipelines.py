"""A small real pipeline, trained in seconds: tagger, morphologizer, parser, entity recognizer, lemmatizer, word vectors."""

import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from openllama_cli.annotation.pipeline import Choice, Pipeline, open_pipeline

ANIMALS = {"whale": "whales", "dog": "dogs", "horse": "horses", "shark": "sharks"}
VERBS = {"sees": "see", "likes": "like", "meets": "meet", "hears": "hear"}
PEOPLE = ("Anna", "Boris", "Clara", "Hiro")
PLACES = ("Berlin", "Madrid", "Delhi", "Tokyo")
# Animals are close together, and so are places; "big" has its own direction. Other words have no vector.
VECTORS = {
    **{word: (1.0, 0.1 * place, 0, 0, 0, 0, 0, 0) for place, word in enumerate(ANIMALS)},
    **{word: (0, 0, 1.0, 0.1 * place, 0, 0, 0, 0) for place, word in enumerate(PLACES)},
    "big": (0, 0, 0, 0, 1.0, 0, 0, 0),
}


def sentences() -> list[tuple[list[tuple[str, str, str, int, str]], list[tuple[int, int, str]]]]:
    """The whole language: "Anna sees the big whale in Berlin." and the like.

    Words as (word, part of speech, lemma, head, relation), entities as (first word, word after the last, label).
    """
    made = []
    for number in range(64):
        person, place = PEOPLE[number % 4], PLACES[number // 4 % 4]
        verb, animal = list(VERBS)[number // 16 % 4], list(ANIMALS)[(number + number // 4) % 4]
        noun = ANIMALS[animal] if number % 2 else animal
        words = [
            (person, "PROPN", person, 1, "nsubj"),
            (verb, "VERB", VERBS[verb], 1, "ROOT"),
            ("the", "DET", "the", 4, "det"),
            ("big", "ADJ", "big", 4, "amod"),
            (noun, "NOUN", animal, 1, "dobj"),
            ("in", "ADP", "in", 1, "prep"),
            (place, "PROPN", place, 5, "pobj"),
            (".", "PUNCT", ".", 1, "punct"),
        ]
        made.append((words, [(0, 1, "PERSON"), (6, 7, "GPE")]))
    return made


def train() -> Any:
    """The pipeline; training takes a few seconds."""
    import numpy
    import spacy
    from spacy.tokens import Doc, Span
    from spacy.training import Example
    from spacy.util import fix_random_seed

    fix_random_seed(0)
    nlp = spacy.blank("en")
    nlp.meta["name"], nlp.meta["version"] = "tiny_test", "1.2.3"
    sizes = {"width": 32, "depth": 1, "embed_size": 300, "window_size": 1, "maxout_pieces": 2}
    network = {"@architectures": "spacy.HashEmbedCNN.v2", **sizes, "subword_features": True, "pretrained_vectors": None}
    nlp.add_pipe("tok2vec", config={"model": network})
    shared = {"@architectures": "spacy.Tok2VecListener.v1", "width": 32}
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": shared}})
    nlp.add_pipe("morphologizer", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": shared}})
    for name in ("parser", "ner"):
        state = {"state_type": name, "extra_state_tokens": False, "hidden_width": 32, "maxout_pieces": 2, "use_upper": True}
        model = {"@architectures": "spacy.TransitionBasedParser.v2", **state, "tok2vec": shared}
        nlp.add_pipe(name, config={"model": model})
    nlp.add_pipe("trainable_lemmatizer", name="lemmatizer", config={"min_tree_freq": 1, "top_k": 3})
    examples = []
    for pair in zip(*[iter(sentences())] * 2, strict=True):
        words, entities, sent_starts = [], [], []
        for sentence, marks in pair:
            before = len(words)
            words += [(word, pos, lemma, head + before, relation) for word, pos, lemma, head, relation in sentence]
            entities += [(first + before, last + before, label) for first, last, label in marks]
            sent_starts += [True] + [False] * (len(sentence) - 1)
        texts, tags, lemmas, heads, relations = (list(column) for column in zip(*words, strict=True))
        spaces = [index + 1 < len(texts) and texts[index + 1] != "." for index in range(len(texts))]
        doc = Doc(nlp.vocab, texts, spaces=spaces, tags=tags, pos=tags, lemmas=lemmas, heads=heads, deps=relations)
        doc.set_ents([Span(doc, *mark) for mark in entities])
        examples.append(Example(nlp.make_doc(doc.text), doc))
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 0.01
    for _ in range(6):
        for begin in range(0, len(examples), 4):
            nlp.update(examples[begin : begin + 4], sgd=optimizer)
    for word, vector in VECTORS.items():
        nlp.vocab.set_vector(word, numpy.asarray(vector, dtype="float32"))
    return nlp


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pipeline; not to be changed. The worker that comes first trains it for all."""
    session = tmp_path_factory.getbasetemp()
    folder = (session.parent if "PYTEST_XDIST_WORKER" in os.environ else session) / "pipelines" / "tiny"
    with FileLock(folder.parent.with_suffix(".lock")):
        folder.parent.mkdir(exist_ok=True)
        if not folder.exists():
            train().to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(trained: Path) -> Pipeline:
    """The pipeline, loaded."""
    return open_pipeline(Choice(trained))
