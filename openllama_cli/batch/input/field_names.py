"""What the name of a row's field means: an option under one of its names, one of another program, a typo, or data."""

import re
from dataclasses import fields
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from openllama_cli.generation.decode.config import SamplingConfig

# Other names that the command line has for its sampling options.
ALIASES = {
    "max_new_tokens": "max_tokens",
    "max_gen_len": "max_tokens",
    "temp": "temperature",
    "stop_token": "stop_token_ids",
    "dry_sequence_breaker": "dry_sequence_breakers",
    "num_samples": "n",
    "num_return_sequences": "n",
}
# A row may ask for its prompt in front of its text, as OpenAI's requests do.
ECHO = "echo"
# And for several completions, n of the best_of that are made.
COUNTS = ("n", "best_of")
MOST_SAMPLES = 1024
# A row may bring the texts that its answer is chosen from.
CHOICES = "choices"
# Fields that are read elsewhere; written in another case or with dashes they are typos as well.
OTHER_FIELDS = ("custom_id", "prompt")
# Counts, as olc's own OUTPUT has them: data, however much they resemble max_tokens.
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "n_tokens", "num_tokens")
# As many fields a row may have, and columns a table: each unknown name is compared with all that are known.
MOST_FIELDS = 1000

# Options of other programs that change the text and do not exist here: values that ask for nothing, and what to do otherwise.
_PENALTY = "leave it out, or use repetition_penalty"
_SAMPLE = "use temperature; 0 is greedy"
_LEAVE = "leave it out"
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((1,), _LEAVE),
    "do_sample": ((False,), _SAMPLE),
    "stream": ((False,), "leave it out: rows are written when they are complete"),
    "suffix": (("",), "leave it out: these models complete a text only at its end"),
    "model": ((), "a batch has one model: name it with -m"),
    "length_penalty": ((0, 0.0, 1, 1.0), _LEAVE),
    "no_repeat_ngram_size": ((0,), _PENALTY),
    "typical_p": ((1, 1.0), "leave it out, or use top_p"),
    "mirostat": ((0,), "leave it out, or use top_p"),
}
_NAMES = {option.name: option.name for option in fields(SamplingConfig)}
_OPTIONS = _NAMES | ALIASES | {name: name for name in (ECHO, CHOICES, *COUNTS)}
# What other programs call options that olc has.
_FOREIGN = {
    "max_length": "max_tokens",
    "max_len": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_tokens_to_sample": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "rep_pen": "repetition_penalty",
    "bad_words": "ban",
    "banned_strings": "ban",
    "min_new_tokens": "min_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "stop_words": "stop",
    "stopping_strings": "stop",
    "random_seed": "seed",
    "rng_seed": "seed",
    "top_logprobs": "logprobs",
    "n_probs": "logprobs",
    "guided_regex": "regex",
    "guided_json": "json_schema",
    "guided_grammar": "grammar",
    "response_format": "json_schema",
    "structured_outputs": "json_schema",
}
# Words that are too common for a name that resembles them to be a typo.
_COMMON = {"n", "model", "stream", "suffix"}

# From this length on, a name that differs from an option's by a letter or two is a typo; below it, a word of its own.
_LONG_NAME = 8
_LONGEST_NAME = 40
_CUTOFF = 0.85


class Meaning(NamedTuple):
    """option: `name` is the option's. unsupported: `name` is a key of UNSUPPORTED. typo: `name` is what was probably meant."""

    kind: Literal["option", "unsupported", "typo"]
    name: str


def meaning(name: str) -> Meaning | None:
    """What a field's name means; None for data. Dashes count as underscores, as on the command line."""
    if len(name) > _LONGEST_NAME:
        return None
    return _meaning(name)


@lru_cache(maxsize=1024)
def _meaning(name: str) -> Meaning | None:
    if name in OTHER_FIELDS or name in _COUNTS:
        return None
    same = name.replace("-", "_")
    if same in _OPTIONS:
        return Meaning("option", _OPTIONS[same])
    if same in UNSUPPORTED:
        return Meaning("unsupported", same)
    meant = _FOREIGN.get(same) or _resembled(_plain(name))
    return None if meant is None else Meaning("typo", meant)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


@lru_cache(maxsize=1)
def _known() -> dict[str, str]:
    """Names without case and separators → what to call the field instead."""
    names = {name: name for name in (*UNSUPPORTED, *_OPTIONS) if name not in _COMMON}
    return {_plain(name): meant for name, meant in (_FOREIGN | names).items()}


def _resembled(plain: str) -> str | None:
    """The name that an unknown one is a typo for: other case or dashes, nearly the same letters, two letters swapped."""
    import difflib

    others = {_plain(name): name for name in OTHER_FIELDS}
    if plain in others:  # of these only in another case: customer_id is nobody's typo for custom_id
        return others[plain]
    known = _known()
    if plain in known:
        return known[plain]
    swapped = (plain[:at] + plain[at + 1] + plain[at] + plain[at + 2 :] for at in range(len(plain) - 1))
    for other in (plain.removesuffix("s"), *swapped):
        if other in known and len(other) >= 4:
            return known[other]
    close = difflib.get_close_matches(plain, [name for name in known if len(name) >= _LONG_NAME], n=1, cutoff=_CUTOFF)
    return known[close[0]] if close else None
