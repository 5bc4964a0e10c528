"""How tokens are chosen and when a row ends: one frozen config that validates itself; the defaults of the program."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from openllama_cli.errors import UsageError

# Given without a temperature, each of these implies sampling. The repetition penalty does not: it changes greedy output too, as
# in transformers.
_IMPLIES_SAMPLING = ("top_p", "top_k", "min_p", "seed")
# Below this, any difference between two float32 logits that are not tiny decides: what is left to chance is exact ties.
_GREEDY_TEMPERATURE = 1e-8


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of one row.

    max_tokens: maximum number of new tokens, >= 0.
    temperature: >= 0; 0 is greedy, whatever else is set, and so is what is as good as 0 (below 1e-8).
    top_p: in (0, 1]; 1 keeps everything. top_k: >= 0; 0 keeps everything. min_p: in [0, 1]; 0 keeps everything.
    repetition_penalty: > 0; 1 changes nothing.
    frequency_penalty, presence_penalty: subtracted from a token's logit for every time that it was generated, and once if it
        was (OpenAI); 0 changes nothing. logit_bias: pairs of a token id and what is added to its logit.
    seed: any integer; with the row's identity it determines every random number. None: the caller chooses one.
    stop: texts that end the row; never part of its text.
    logprobs: None, or the number of alternatives to report with each token's log-probability, 0 to 100.

    Raises UsageError naming the flag.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.max_tokens < 1 << 31, "--max-tokens", self.max_tokens, "0 or more, but no more than 2147483647")
        _require(0 <= self.temperature < math.inf, "--temperature", self.temperature, "0 (greedy) or more")
        _require(0 < self.top_p <= 1, "--top-p", self.top_p, "more than 0 and at most 1")
        _require(self.top_k >= 0, "--top-k", self.top_k, "0 (off) or more")
        _require(0 <= self.min_p <= 1, "--min-p", self.min_p, "between 0 and 1")
        _require(0 < self.repetition_penalty < math.inf, "--repetition-penalty", self.repetition_penalty, "more than 0")
        _require(math.isfinite(self.frequency_penalty), "--frequency-penalty", self.frequency_penalty, "a finite number")
        _require(math.isfinite(self.presence_penalty), "--presence-penalty", self.presence_penalty, "a finite number")
        for token, added in self.logit_bias:
            _require(token >= 0, "--logit-bias", token, "token ids")
            _require(math.isfinite(added), "--logit-bias", added, "finite numbers")
        _require(self.logprobs is None or 0 <= self.logprobs <= 100, "--logprobs", self.logprobs, "between 0 and 100")
        if any(not text for text in self.stop):
            raise UsageError("--stop is empty", "give a text to stop at, such as --stop 'Q:'")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature < _GREEDY_TEMPERATURE

    @classmethod
    def from_given(cls, given: Mapping[str, Any], *, shown: Callable[[Any], str] = repr) -> "SamplingConfig":
        """Build from the options that were given; a sampling option without a temperature sets it to 1.0.

        shown: how messages write a value. Raises UsageError for an unknown name or a value of the wrong type.
        """
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in _KINDS:
                raise UsageError(f"unknown sampling option {name!r}", f"use one of {', '.join(sorted(_KINDS))}")
            values[name] = _typed(name, value, _KINDS[name], shown)
        if "temperature" not in values and any(name in values for name in _IMPLIES_SAMPLING):
            values["temperature"] = 1.0
        return cls(**values)


def choose_sampling(given: Mapping[str, Any], *, samples: int = 1) -> SamplingConfig:
    """The sampling options that were given, with a seed where one is needed and none was given: it is reported, so that a
    text one likes can be had again. samples: completions of each prompt. Raises UsageError.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    if samples < 1:
        raise UsageError(f"--num-samples {samples} is out of range", "give 1 or more")
    if samples > 1:
        settings.setdefault("temperature", 1.0)
    config = SamplingConfig.from_given(settings)
    if samples > 1 and config.greedy:
        cause = f"--num-samples {samples} at temperature {config.temperature:g} would give {samples} identical texts"
        raise UsageError(cause, "give --temperature 0.8")
    if config.greedy or config.seed is not None:
        return config
    import secrets  # Not at the top: it costs more than all else here, and greedy decoding does without.

    return replace(config, seed=secrets.randbits(31))


# Computed once, since a batch builds a config for each row that has options of its own.
INTEGERS = ("max_tokens", "top_k", "seed", "logprobs")
_KINDS: dict[str, type] = {
    field.name: int if field.name in INTEGERS else {"stop": tuple, "logit_bias": dict}.get(field.name, float)
    for field in fields(SamplingConfig)
}


def _typed(name: str, value: Any, kind: type, shown: Callable[[Any], str]) -> Any:
    flag = "--" + name.replace("_", "-")
    if kind is dict:
        return _biases(flag, value, shown)
    if kind is tuple:
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{flag} is {shown(value)}", 'give a string or a list of strings, such as ["Q:", "END"]')
        return tuple(texts)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise UsageError(f"{flag} is {shown(value)}", f"give {'an integer' if kind is int else 'a number'}")
    try:
        return kind(value)
    except OverflowError as error:
        raise UsageError(f"{flag} is too large", "give a smaller number") from error


def _biases(flag: str, value: Any, shown: Callable[[Any], str]) -> tuple[tuple[int, float], ...]:
    """{id: number}, the ids perhaps as texts, as JSON has them; pairs, as `SamplingConfig` has them, stay."""
    pairs = value.items() if isinstance(value, Mapping) else value
    found = []
    try:
        for token, added in pairs:
            whole = type(token) is int or (isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 16)
            if not whole or isinstance(added, bool) or not isinstance(added, int | float):
                raise ValueError
            found.append((int(token), float(added)))
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{flag} is {shown(value)}", 'give an object of token ids and numbers, such as {"13": -100}') from None
    found.sort()
    for (token, _), (following, _) in itertools.pairwise(found):
        if token == following:  # "13" and "013"
            raise UsageError(f"{flag} has token id {token} twice", "give each id once")
    return tuple(found)


def _require(holds: bool, flag: str, value: object, allowed: str) -> None:
    if not holds:
        if isinstance(value, int) and value.bit_length() > 64:  # thousands of digits could not even be printed
            raise UsageError(f"{flag} is too large", f"give {allowed}")
        raise UsageError(f"{flag} {value} is out of range", f"give {allowed}")
