"""What options say in texts, as ids of a vocabulary: biased tokens, breakers of DRY."""

import weakref
from collections.abc import Iterable
from dataclasses import replace

from openllama_cli.errors import ModelError, UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.tokenizer.base import Tokenizer

# What a text is put behind to see its ids there; one of them joins nothing in any vocabulary that is known.
_CONTEXTS = ("\n", "a", ".", " ")
_KNOWN: weakref.WeakKeyDictionary[Tokenizer, dict[tuple[str, ...], frozenset[int]]] = weakref.WeakKeyDictionary()


def resolve(sampling: SamplingConfig, tokenizer: Tokenizer, vocabulary: int) -> SamplingConfig:
    """The options with ids for texts. vocabulary: how many ids the model has.

    Raises UsageError for an id that the model does not have, and for a biased text that is not one token.
    """
    for name, ids in (("--stop-token", sampling.stop_token_ids), ("--logit-bias", [one for one, _ in sampling.logit_bias])):
        for token in ids:
            if isinstance(token, int) and token >= vocabulary:
                raise UsageError(
                    f"{name} has token id {token}, and the model's ids are 0 to {vocabulary - 1}",
                    "give one of these; `olc tokenize TEXT` shows the ids of a text",
                    code="token_id_out_of_range",
                )
    if not any(isinstance(token, str) for token, _ in sampling.logit_bias):
        return sampling
    biases: dict[int, float] = {}
    for token, added in sampling.logit_bias:
        one = _one_token(tokenizer, token) if isinstance(token, str) else token
        if one in biases:
            raise UsageError(f"--logit-bias has token id {one} twice", "give it once")
        biases[one] = added
    return replace(sampling, logit_bias=tuple(sorted(biases.items())))


def _one_token(tokenizer: Tokenizer, text: str) -> int:
    """The id of a text that is one token where it follows other text. Raises UsageError."""
    ids = following_ids(tokenizer, text)
    if len(ids) == 1:
        return ids[0]
    spelled = ", ".join(f"{one} ({tokenizer.piece(one)})" for one in ids)
    raise UsageError(
        f"--logit-bias {text!r} is {len(ids)} tokens: {spelled}",
        "bias one of them by its id, or forbid the text with --ban",
        code="not_one_token",
    )


def following_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text where it follows other text: without the space that stands before the first word of a text."""
    for context in _CONTEXTS:
        before = tokenizer.encode(context, bos=False)
        ids = tokenizer.encode(context + text, bos=False)
        if ids[: len(before)] == before and len(ids) > len(before):
            return ids[len(before) :]
    return tokenizer.encode(text, bos=False)


def breaker_ids(tokenizer: Tokenizer, breakers: Iterable[str]) -> frozenset[int]:
    """The ids whose text contains one of the breakers."""
    key = tuple(breakers)
    known = _KNOWN.setdefault(tokenizer, {})
    if key not in known:
        found = set()
        for token in range(tokenizer.vocab_size):
            text = token_text(tokenizer, token)
            if any(breaker in text for breaker in key):
                found.add(token)
        known.clear()  # One set at a time: rows may name any number of them.
        known[key] = frozenset(found)
    return known[key]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token within a text; empty for those that have none, and for incomplete characters U+FFFD."""
    if token in tokenizer.special_ids:
        return ""
    try:
        data = tokenizer.token_bytes(token)
        return tokenizer.text(token) if data is None else data.decode(errors="replace")
    except ModelError:
        return ""
