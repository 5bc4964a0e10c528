"""SentencePiece models of every kind, trained here in some 0.05 s each."""

import functools
import io
import json
from pathlib import Path
from typing import Any

import sentencepiece

CORPUS = [
    "the largest animal is the blue whale, the tallest is the giraffe",
    "def f(x):\n    if x:\n        return x + 1",
    "Q: What is the capital of France?\nA: Paris.",
    "Das größte Tier ist der Blauwal. Ｆｕｌｌｗｉｄｔｈ ① ﬁnal",
    "सबसे बड़ा जानवर कौन सा है? नीली व्हेल",
    "一番大きな動物は何ですか。シロナガスクジラです。",
    "a  b   c    d\te\tf  hello world 1234567890",
] * 6

IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
# name → how its model differs from: BPE, byte fallback, nmt_nfkc, extra spaces removed, a space put in front.
VARIANTS: dict[str, dict[str, Any]] = {
    "bpe-nmt_nfkc": {},
    "bpe-openllama-v2": IDENTITY,
    "bpe-nfkc_cf": {"normalization_rule_name": "nfkc_cf"},
    "bpe-no-dummy-prefix": {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "bpe-no-prefix-collapse": {"add_dummy_prefix": False},
    "bpe-suffix-spaces": {"treat_whitespace_as_suffix": True},
    "bpe-no-byte-fallback": {"byte_fallback": False},
    "bpe-user-symbols": {"user_defined_symbols": ["<sep>", "    "], "remove_extra_whitespaces": False},
    "unigram-nmt_nfkc": {"model_type": "unigram"},
    "unigram-identity": {"model_type": "unigram", **IDENTITY},
    "unigram-nfkc_cf-no-byte-fallback": {
        "model_type": "unigram",
        "normalization_rule_name": "nfkc_cf",
        "byte_fallback": False,
        "vocab_size": 180,
    },
}


@functools.cache
def trained(name: str) -> bytes:
    """The SentencePiece model of a variant; a training takes some 0.05 s."""
    return train(**VARIANTS[name])


def train(corpus: list[str] = CORPUS, **options: Any) -> bytes:
    model = io.BytesIO()
    defaults = {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=model, **(defaults | options))
    return model.getvalue()


def write(folder: Path, model: bytes, **files: Any) -> Path:
    """A model folder: tokenizer.model, and `name`.json for each further name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder
