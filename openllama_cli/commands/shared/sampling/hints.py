"""Hints on stderr about prompts and ends of texts, each once."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from openllama_cli.generation.text.hints import about_end, about_prompt
from openllama_cli.terminal.streams import hint

if TYPE_CHECKING:
    from openllama_cli.models.tokenizer.base import Tokenizer


def hint_prompt(prompts: Iterable[str], tokenizer: "Tokenizer | None" = None) -> None:
    """Mention what is odd about prompts, each once. tokenizer: see `generation.text.hints.about_prompt`."""
    for said in dict.fromkeys(said for prompt in prompts for said in about_prompt(prompt, tokenizer)):
        hint(said)


def hint_end(reasons: Iterable[str | None], texts: Iterable[str], max_tokens: int | None) -> None:
    """Mention what is odd about the ends of completions, once.

    max_tokens: that they may have; None where it was chosen on purpose.
    """
    found = (about_end(reason, text, max_tokens) for reason, text in zip(reasons, texts, strict=True))
    said = next(filter(None, found), None)
    if said is not None:
        hint(said)
