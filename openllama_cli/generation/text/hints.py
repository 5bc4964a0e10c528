"""What spoils an answer of a base model, in a sentence each with what helps; whoever asks shows them, once."""

import re

from openllama_cli.generation.text.token_ids import following_ids, token_text
from openllama_cli.models.tokenizer.base import Tokenizer

# What chat models are asked with. "### Instruction" is plain text, which base models continue as well as any.
_CHAT = re.compile(
    r"\[/?INST\]|<</?SYS>>|<\|(?:begin_of_text|im_start|im_end|user|assistant|system|start_header_id|end_header_id|eot_id|endoftext)\|>"
    r"|<(?:start|end)_of_turn>"
)
_END = re.compile(r"[.!?…。！？।؟۔][\"'”’»)\]*_」』）]*$")
_LAST_WORD = re.compile(r"[^\W\d_]+$")
# Characters that are looked at, with the space before it: the search takes their square.
_LONGEST_WORD = 60


def about_prompt(text: str, tokenizer: Tokenizer | None, *, healed: bool = False) -> list[str]:
    """What is odd about a prompt. tokenizer: the model's; None where a server has it. healed: whether its end is drawn anew."""
    rules = (_chat, _bos) if healed else (_space, _chat, _bos, _word)
    return [said for rule in rules if (said := rule(text, tokenizer)) is not None]


# What helps against loops.
AGAINST_LOOPS = "--repetition-penalty 1.1 or --dry-multiplier 0.8 helps against that"


def about_end(reason: str | None, text: str, max_tokens: int | None, room: int | None = None) -> str | None:
    """What is odd about the end of a completion that may have `max_tokens`; None: nothing.

    reason: a `FinishReason`. max_tokens: None where it was chosen on purpose, and a text that is cut off is what was wanted.
    room: see `more`.
    """
    if reason == "repetition":
        return f"the text went in circles and was ended; {AGAINST_LOOPS}, --no-loop-guard lets it go on"
    if reason == "length" and max_tokens and not _complete(text):
        return f"the text was cut off after {max_tokens} tokens; {more(max_tokens, room)}, --stop-at sentence ends it in time"
    return None


def more(max_tokens: int, room: int | None = None) -> str:
    """How to have more than `max_tokens`. room: tokens that the context has for a completion, if that is known."""
    if room is not None and room <= max_tokens:
        return "a shorter prompt leaves room for more"
    return f"-n {2 * max_tokens if room is None else min(2 * max_tokens, room)} gives it more"


def _complete(text: str) -> bool:
    """Whether a text ends where a sentence may."""
    text = text.rstrip()
    return not text or _END.search(text) is not None


def _space(text: str, _: Tokenizer | None) -> str | None:
    if not text.endswith(" ") or not text.splitlines()[-1].strip():  # A line of spaces is the indent of the next one.
        return None
    said = "it becomes a token of its own, and the words that follow mostly begin with a space of theirs"
    return f"the prompt ends in a space: {said}; leave it out, or add --heal"


def _chat(text: str, tokenizer: Tokenizer | None) -> str | None:
    found = _CHAT.search(text)
    if found is None:
        return None
    if tokenizer is not None and any(tokenizer.piece(token) == found.group() for token in tokenizer.special_ids):
        return None  # The model was trained with it.
    return f"the prompt has {found.group()}, the markup of a chat model; this one completes text: write what the answer follows"


def _bos(text: str, tokenizer: Tokenizer | None) -> str | None:
    written = "<s>" if tokenizer is None else "" if tokenizer.bos_id is None else tokenizer.piece(tokenizer.bos_id)
    if not written or not text.startswith(written):
        return None
    return f"the prompt begins with {written}, which is text here; one BOS stands in front of it already: leave it out"


def _word(text: str, tokenizer: Tokenizer | None) -> str | None:
    """A word that is no token, though longer ones that begin with it are."""
    text = text[-_LONGEST_WORD:]
    found = _LAST_WORD.search(text)
    if found is None or tokenizer is None or found.start() == 0 or text[found.start() - 1] != " ":
        return None
    word = found.group()
    # The vocabulary is searched only for what is no token.
    if len(word) < 3 or len(following_ids(tokenizer, f" {word}")) == 1 or not _longer(tokenizer, word):
        return None
    return f"the prompt may end in the middle of a word ({word!r}); --heal backs up over it and lets the model finish it"


def _longer(tokenizer: Tokenizer, word: str) -> bool:
    """Whether a longer word that begins with this one is a token, with the space before it."""
    return any(token_text(tokenizer, token).startswith(f" {word}") for token in range(tokenizer.vocab_size))
