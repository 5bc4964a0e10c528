"""Hints on stderr about prompts and ends of texts, each once."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from openllama_cli.generation.decode.config import flag_of
from openllama_cli.generation.text.hints import about_end, about_prompt, more
from openllama_cli.terminal.streams import hint

if TYPE_CHECKING:
    from openllama_cli.generation.constraints.config import Constraint
    from openllama_cli.generation.decode.config import SamplingConfig
    from openllama_cli.models.tokenizer.base import Tokenizer


def hint_prompt(prompts: Iterable[str], tokenizer: "Tokenizer | None" = None, *, healed: bool) -> None:
    """Mention what is odd about prompts, each once. tokenizer, healed: see `generation.text.hints.about_prompt`."""
    for said in dict.fromkeys(said for prompt in prompts for said in about_prompt(prompt, tokenizer, healed=healed)):
        hint(said)


def hint_ends(
    sampling: "SamplingConfig", reasons: Sequence[str | None], texts: Sequence[str], *, chosen: bool, room: int | None = None
) -> None:
    """Mention what is odd about the ends of completions, once, and which are no match of what they have to be.

    chosen: whether `max_tokens` was given on purpose. room: tokens that the context has for the longest of them, if known.
    """
    if sampling.constraint is not None:
        _hint_incomplete(sampling.constraint, reasons, texts, sampling.max_tokens, room)
        return
    most = None if chosen else sampling.max_tokens
    found = (about_end(reason, text, most, room) for reason, text in zip(reasons, texts, strict=True))
    said = next(filter(None, found), None)
    if said is not None:
        hint(said)


def _hint_incomplete(
    constraint: "Constraint", reasons: Iterable[str | None], texts: Sequence[str], max_tokens: int, room: int | None
) -> None:
    ended = [reason for reason, text in zip(reasons, texts, strict=True) if not constraint.matches(text)]
    if ended:
        which = "the text is" if len(texts) == 1 else f"{len(ended)} of {len(texts)} texts are"
        cut = f"cut off after {max_tokens} tokens; {more(max_tokens, room)}"
        how = cut if "length" in ended else "ended before by a stop string, --stop-at, the context or the loop guard"
        hint(f"{which} incomplete, no match of {flag_of(constraint.kind)}: {how}")
