"""What a constraint costs: `python -m openllama_cli.benchmark.decoding.constraints`.

Processor time of compiling, and of each token of a match: the parser's step, the mask, and the logits with it. The vocabulary
has 32,000 pieces, trained here on the source of Python's standard library; or it is that of a model folder.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from openllama_cli.generation.constraints.config import Constraint, Kind
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer

PIECES = 32_000
REGEX = r" (0?[1-9]|[12]\d|3[01])\.(0?[1-9]|1[0-2])\.(19|20)\d\d, [A-Z][a-z]{1,30}( [A-Z][a-z]{1,30}){0,3}\."
_PLACE = ["street", "city"]
_TEXT, _CLOSED = {"type": "string"}, {"additionalProperties": False}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "pattern": r"^[a-z0-9.]{1,20}@[a-z0-9]{1,20}\.(com|org)$"},
        "tags": {"type": "array", "items": _TEXT, "maxItems": 5},
        "address": {
            "type": "object",
            "properties": {"street": _TEXT, "city": _TEXT},
            "required": ["street", "city"],
            **_CLOSED,
        },
        "kind": {"enum": ["person", "company", "other"]},
    },
    "required": ["name", "age", "email", "tags", "address", "kind"],
    **_CLOSED,
}
DOCUMENT = {
    "name": "Ada Lovelace",
    "age": 36,
    "email": "ada@mail.org",
    "tags": ["math", "café 日本"],
    "address": {"street": "St. James's Square 12", "city": "London"},
    "kind": "person",
}
GRAMMAR = 'start: sum\nsum: term (" + " term)*\nterm: NUMBER | "(" sum ")"\nNUMBER: /[0-9]{1,6}/\n'
CASES: Sequence[tuple[Kind, str, str]] = (
    ("regex", REGEX, " 3.12.1915, Ada Lovelace."),
    ("json_schema", json.dumps(SCHEMA), json.dumps(DOCUMENT, ensure_ascii=False)),
    ("grammar", GRAMMAR, "12 + (345 + 6789) + ((1 + 2) + 3)"),
)


def trained(folder: Path) -> Path:
    """A folder with a tokenizer.model."""
    import sentencepiece

    lines = [line for file in sorted(Path(os.__file__).parent.glob("*.py")) for line in file.read_text("utf-8").splitlines()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in lines if 0 < len(line) < 500),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return folder


def measure(tokenizer: Tokenizer) -> list[tuple[str, float, list[float]]]:
    """Of each case its name, seconds to compile it, and seconds for each token of its text."""
    import torch

    from openllama_cli.generation.constraints.matcher import Matcher

    prompt = tokenizer.encode("Answer:")
    found: list[tuple[str, float, list[float]]] = []
    for kind, source, text in CASES:
        began = time.process_time()
        matcher = Matcher(Constraint(kind, source), tokenizer, prompt, tokenizer.eos_ids)
        compiled = time.process_time() - began
        logits = torch.randn(tokenizer.vocab_size)
        times = []
        for token in tokenizer.encode("a" + text, bos=False)[len(tokenizer.encode("a", bos=False)) :]:
            began = time.process_time()
            mask = matcher.mask(tokenizer.vocab_size)
            logits.masked_fill(~mask, -torch.inf).max()
            matcher.push(token)
            matcher.finished  # noqa: B018  # As the loop asks; it computes the next mask.
            times.append(time.process_time() - began)
            assert mask[token]
        found.append((kind, compiled, times))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m openllama_cli.benchmark.decoding.constraints", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="a model folder whose tokenizer is used")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = open_tokenizer(given.folder or trained(Path(folder)))
        began = time.process_time()
        from openllama_cli.generation.constraints.vocabulary import vocabulary_of

        vocabulary_of(tokenizer)
        print(f"{tokenizer.vocab_size:,} pieces, made ready in {time.process_time() - began:.2f} s")
        for kind, compiled, times in measure(tokenizer):
            median, most = statistics.median(times) * 1e3, max(times) * 1e3
            each = f"a token {median:.2f} ms, at most {most:.2f} ms ({len(times)} tokens)"
            print(f"{kind:12} {compiled * 1e3:6.1f} ms to compile; {each}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
