"""The similarity of texts, and what is reported when nothing is known about them."""

import numpy
import pytest

from openllama_cli.annotation.annotate import similarity
from openllama_cli.annotation.pipeline import Choice, Pipeline, open_pipeline
from openllama_cli.errors import OlcError, UsageError
from tests.support.pipelines import VECTORS, pipeline, trained

__all__ = ["pipeline", "trained"]


def cosine(a: list[str], b: list[str]) -> float:
    x, y = (numpy.mean([VECTORS[word] for word in words], axis=0) for words in (a, b))
    return float(x @ y / numpy.linalg.norm(x) / numpy.linalg.norm(y))


@pytest.mark.parametrize(
    ("a", "b"),
    [("whale", "shark"), ("whale", "Tokyo"), ("big whale", "Berlin dog horse"), ("big", "big"), ("big dog", "dog big")],
)
def test_it_is_the_cosine_of_the_mean_vectors(pipeline: Pipeline, a: str, b: str) -> None:
    assert similarity(pipeline, a, b).cosine == pytest.approx(cosine(a.split(), b.split()), abs=1e-5)


def test_words_without_a_vector_are_named_and_do_not_count(pipeline: Pipeline) -> None:
    found = similarity(pipeline, "the whale sees", "shark the")
    assert found.unknown == ("the", "sees")
    assert found.cosine == pytest.approx(cosine(["whale"], ["shark"]), abs=1e-5)


@pytest.mark.parametrize("texts", [("whale", "unheard"), ("unheard", "whale"), ("", "whale"), ("x", "x")])
def test_texts_of_unknown_words_are_not_compared(pipeline: Pipeline, texts: tuple[str, str]) -> None:
    with pytest.raises(OlcError, match="no vector for any word") as raised:
        similarity(pipeline, *texts)
    assert raised.value.code == "no_vectors"


def test_without_vectors_nothing_is_compared() -> None:
    with pytest.raises(OlcError, match="no word vectors"):
        similarity(open_pipeline(Choice(language="en")), "whale", "whale")


def test_a_book_is_not_compared(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match="50000 characters"):
        similarity(pipeline, "whale", "dog  " * 10_000)
