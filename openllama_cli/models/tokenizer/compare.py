"""Comparing two tokenizers: fixed texts that show whether they are the same, and transformers' tokenizer of a folder.

Clean lines of words come out alike nearly everywhere; what differs is spaces, normalization, special tokens and bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, cast

from openllama_cli.errors import ModelError, first_line
from openllama_cli.models.tokenizer.library import failures_as, without_panic_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = "special tokens as text"
FIXED_TEXTS: Mapping[str, str] = {
    "words": "The largest animal is the blue whale.",
    "question and answer": "Q: What is the largest animal?\nA:",
    "a leading space": " hello",
    "two leading spaces": "  hello",
    "a trailing space": "hello ",
    "many spaces": "hello     world",
    "only spaces": "    ",
    "a tab": "name\tvalue",
    "line breaks": "one\ntwo\n\nthree\r\nfour",
    "indented code": "def f(x):\n    if x:\n        return x\n",
    "numbers": "3.14159, 1,000,000 and 2026-01-31",
    SPECIAL: "<s> and </s> and <unk>",
    "a byte token as text": "<0x0A>",
    "the space symbol as text": "a▁b",
    "full-width letters": "Ｆｕｌｌ　ｗｉｄｔｈ",
    "ligatures and circled numbers": "ﬁnal ① ² ½ ™",
    "a composed accent": "café",
    "a combining accent": "cafe\u0301",
    "German": "Was ist das größte Tier?",
    "Spanish": "¿Cuál es el animal más grande?",
    "Hindi": "सबसे बड़ा जानवर कौन सा है?",
    "Japanese": "一番大きい動物は何ですか？",
    "Arabic": "ما هو أكبر حيوان؟",
    "emoji": "🐋 and 👩\u200d👩\u200d👧",
    "zero-width characters": "a\u200bb\ufeffc\u00add",
    "a null character": "a\0b",
}


@dataclass(frozen=True)
class Comparison:
    """One text in two tokenizers. name: of the text; ours, theirs: its ids."""

    name: str
    text: str
    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    @property
    def same(self) -> bool:
        return self.ours == self.theirs

    @property
    def first_difference(self) -> int | None:
        """The index of the first id that differs, which may be the end of the shorter list; None if they are the same."""
        return next((index for index, (a, b) in enumerate(zip_longest(self.ours, self.theirs)) if a != b), None)


def load_auto_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """`AutoTokenizer.from_pretrained(path)`, from files only: what transformers makes of a model's tokenizer.

    path: a folder with tokenizer.model or tokenizer.json, or a GGUF file. Raises ModelError when transformers cannot load it.
    """
    from transformers import AutoTokenizer

    from openllama_cli.system.quiet import quiet_transformers

    def failure(error: BaseException) -> ModelError:
        return ModelError(
            f"transformers cannot load the tokenizer in {path}: {first_line(error)}",
            "leave out --check; olc itself does not need it",
        )

    # Errors of any kind, by the file: the comparison cannot be made.
    with without_panic_messages(), failures_as(failure), quiet_transformers():
        gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
        folder = path.parent if gguf else path
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **gguf)
    return cast("PreTrainedTokenizerBase", loaded)
