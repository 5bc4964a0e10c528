"""The SentencePiece tokenizer of the demo model: BPE with byte fallback, as OpenLLaMA's, but keeping every space."""

import io
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from openllama_cli.demo_model.corpus import Corpus

BOS, EOS = 1, 2
NEWLINE = "\n"
ASCII = "".join(map(chr, range(33, 127)))


def training_lines(corpus: Corpus) -> Iterator[str]:
    """Every trained text once, a line each. What is held out is not shown to the tokenizer either."""
    for fact in corpus.facts:
        yield f"A: {fact.answer}"
        for phrasing in fact.of_split("trained"):
            yield f"Q: {phrasing.text}" if phrasing.kind == "question" else phrasing.text + fact.ending
    for unknown in corpus.unknown:
        if not unknown.held_out:
            yield f"Q: {unknown.question}"
    for continuation in corpus.continuations:
        yield from (continuation.opening + continuation.then).split(NEWLINE)


def train_tokenizer(corpus: Corpus, path: Path, *, vocab_size: int, character_coverage: float) -> None:
    """Write a `tokenizer.model` to path.

    unk 0, bos 1, eos 2, no pad, digits split, as in OpenLLaMA's. The text is not normalised and no space is dropped. Characters
    beyond the coverage that are not ASCII are read and written as UTF-8 bytes; so are newlines, which no training line has.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=training_lines(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        required_chars=ASCII,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


class PartEncoder:
    """Token ids of texts that stand behind others."""

    def __init__(self, model: Path) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def first(self, text: str) -> list[int]:
        """Ids of a text at the start, with BOS."""
        return [BOS, *self.processor.encode(text)]

    def following(self, text: str) -> list[int]:
        """Ids of a text behind another one: without BOS and without the space that SentencePiece puts in front of a text.

        A newline is always a piece of its own, so whatever stands behind one is encoded as in the middle of a text.
        """
        return self.processor.encode(NEWLINE + text)[2:]  # type: ignore[no-any-return]
