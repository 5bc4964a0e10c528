"""`/tokenize`, `/detokenize` and `/tokenizer_info`: what lm-evaluation-harness and vLLM's clients ask a tokenizer."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import OlcError
from openllama_cli.serve.errors import bad, of_olc

if TYPE_CHECKING:
    from openllama_cli.models.tokenizer.base import Tokenizer


def tokenize(body: Mapping[str, Any], tokenizer: "Tokenizer", context: int) -> dict[str, Any]:
    """The ids of a text, with one BOS in front.

    `add_special_tokens` false: without it, and special tokens that are spelled out (`</s>`) are their ids, since whoever asks
    so puts them in by themselves; `parse_special` says it explicitly. `pieces`: with their texts. `spans`: with where each
    stands in the text, if nothing is spelled out, and which of them is BOS. Raises ApiError.
    """
    text = body.get("prompt")
    if not isinstance(text, str):
        if text is None:
            raise bad("there is no prompt; send a text", "prompt", "missing_prompt")
        raise bad("the prompt is not a text; send one", "prompt", "invalid_type")
    special = body.get("add_special_tokens", True) is not False
    parse = body.get("parse_special", not special) is True
    wants_spans = body.get("spans") is True and not parse
    try:
        ids = _parse(text, tokenizer) if parse else tokenizer.encode(text, bos=False)
        spans = tokenizer.spans(text) if wants_spans else []
    except OlcError as error:
        raise of_olc(error) from error
    if special and tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id, *ids]
    found: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": context}
    if body.get("pieces") is True:
        found["pieces"] = [[token, tokenizer.text(token)] for token in ids]
    if wants_spans:
        found |= {"spans": spans[-len(ids) :] if ids else [], "bos_id": tokenizer.bos_id}
    return found


def _parse(text: str, tokenizer: "Tokenizer") -> list[int]:
    """The ids of a text in which special tokens may be spelled out."""
    spelled = {tokenizer.piece(token): token for token in tokenizer.special_ids}
    pattern = "|".join(re.escape(piece) for piece in sorted(spelled, key=len, reverse=True) if piece)
    ids: list[int] = []
    for part in re.split(f"({pattern})", text) if pattern else [text]:
        if part in spelled:
            ids.append(spelled[part])
        elif part:
            ids += tokenizer.encode(part, bos=False)
    return ids


def detokenize(body: Mapping[str, Any], tokenizer: "Tokenizer") -> dict[str, Any]:
    """The text of ids; BOS and EOS have none. Raises ApiError."""
    ids = body.get("tokens")
    code = "missing_tokens" if ids is None else "invalid_type"
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise bad("there are no tokens; send a list of token ids", "tokens", code)
    odd = next((token for token in ids if not 0 <= token < tokenizer.vocab_size), None)
    if odd is not None:
        cause = f"the tokenizer has no token {odd}; send ids from 0 to {tokenizer.vocab_size - 1}"
        raise bad(cause, "tokens", "token_id_out_of_range")
    try:
        return {"prompt": tokenizer.decode(ids)}
    except OlcError as error:
        raise of_olc(error) from error


def tokenizer_info(tokenizer: "Tokenizer", context: int) -> dict[str, Any]:
    """What stands for the beginning and the end of a text, as texts and as ids."""
    eos = min(tokenizer.eos_ids, default=None)
    return {
        "bos_token": None if tokenizer.bos_id is None else tokenizer.piece(tokenizer.bos_id),
        "eos_token": None if eos is None else tokenizer.piece(eos),
        "pad_token": None,
        "unk_token": None if tokenizer.unk_id is None else tokenizer.piece(tokenizer.unk_id),
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": eos,
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": context,
        "chat_template": None,
        "tokenizer_class": tokenizer.kind,
    }
