"""How alike two texts are: the cosine of their mean word vectors, or why there is none."""

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
    ("a", "b", "unknown"),
    [
        ("whale", "Tokyo", ()),
        ("big whale", "Berlin dog horse", ()),
        ("big dog", "dog big", ()),
        ("the whale sees", "shark the", ("the", "sees")),
    ],
)
def test_it_is_the_cosine_of_the_mean_vectors(pipeline: Pipeline, a: str, b: str, unknown: tuple[str, ...]) -> None:
    found, without = similarity(pipeline, a, b)
    known = ([word for word in text.split() if word not in unknown] for text in (a, b))
    assert found == pytest.approx(cosine(*known), abs=1e-5)
    assert without == [*unknown]


def test_texts_of_unknown_words_are_not_compared(pipeline: Pipeline) -> None:
    for texts in (("whale", "unheard"), ("unheard", "whale"), ("", "whale")):
        with pytest.raises(OlcError, match="no vector for any word") as raised:
            similarity(pipeline, *texts)
        assert raised.value.code == "no_vectors"


def test_without_vectors_and_of_a_book_nothing_is_compared(pipeline: Pipeline) -> None:
    with pytest.raises(OlcError, match="no word vectors"):
        similarity(open_pipeline(Choice(language="xx")), "whale", "whale")
    with pytest.raises(UsageError, match="50000 characters"):
        similarity(pipeline, "whale", "dog  " * 10_000)
