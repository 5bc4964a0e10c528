"""How alike two words or sentences are, by word vectors."""

from dataclasses import dataclass

from openllama_cli.annotation.annotate import PIECE
from openllama_cli.annotation.pipeline import Pipeline
from openllama_cli.errors import OlcError, UsageError


@dataclass(frozen=True)
class Similarity:
    """cosine: of the mean vectors of the words of `a` and `b`, between -1 and 1. unknown: their words without a vector."""

    a: str
    b: str
    cosine: float
    unknown: tuple[str, ...]


def similarity(pipeline: Pipeline, a: str, b: str) -> Similarity:
    """Compare two texts as `Doc.similarity` does: the cosine of the means of their words' vectors.

    Raises OlcError (code "no_vectors") where the pipeline has no word vectors, or knows none of the words of a text: spaCy
    would answer with the state of its network, or with 0, which says nothing about likeness. UsageError for a long text.
    """
    for text in (a, b):
        if len(text) > PIECE:
            raise UsageError(f"a text to compare has {len(text)} characters", f"give {PIECE} or fewer")
    if not pipeline.has_vectors:
        raise OlcError(
            f"{pipeline.name} has no word vectors, so nothing can be compared",
            "use a pipeline that has, such as: python -m spacy download en_core_web_md",
            code="no_vectors",
        )
    docs = [pipeline.nlp.make_doc(text) for text in (a, b)]
    for doc in docs:
        if not any(token.has_vector for token in doc):
            raise OlcError(
                f"{pipeline.name} has no vector for any word of {doc.text!r}", "compare other words", code="no_vectors"
            )
    # The mean includes the zeros of unknown words, which make it shorter but do not turn it.
    unknown = dict.fromkeys(token.text for doc in docs for token in doc if not token.has_vector and not token.is_space)
    return Similarity(a, b, round(float(docs[0].similarity(docs[1])), 6), tuple(unknown))
