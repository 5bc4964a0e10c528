"""How tokens are chosen and when a row ends: one frozen config that validates itself; the defaults of the program."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from openllama_cli.errors import UsageError
from openllama_cli.generation.constraints.config import KINDS, Constraint, as_source

# Given without a temperature, each of these implies sampling. Penalties, bans and biases do not: they change greedy output too,
# as in transformers.
_IMPLIES_SAMPLING = ("top_p", "top_k", "min_p", "seed")
# Below this, any difference between two float32 logits that are not tiny decides: what is left to chance is exact ties.
_GREEDY_TEMPERATURE = 1e-8
# What the text may end after.
Boundary = Literal["line", "sentence", "paragraph"]
_BOUNDARIES = "line, sentence or paragraph"
# Reasons to end (`request.FinishReason`) at which the text may end within a token.
TEXT_ENDS = frozenset({"stop", *get_args(Boundary)})
# llama.cpp's.
DRY_BREAKERS = ("\n", ":", '"', "*")
# Characters of a banned text: after every token its beginnings are looked for in the text before.
_LONGEST_BAN = 1000
# Options whose flag is not their name: it is given once for each value.
_FLAGS = {"stop_token_ids": "--stop-token", "dry_sequence_breakers": "--dry-sequence-breaker"}


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of one row.

    max_tokens: maximum number of new tokens, >= 0. min_tokens: so many come before EOS or a stop token may.
    temperature: >= 0; 0 is greedy, whatever else is set, and so is what is as good as 0 (below 1e-8).
    top_p: in (0, 1]; 1 keeps everything. top_k: >= 0; 0 keeps everything. min_p: in [0, 1]; 0 keeps everything.
    repetition_penalty: > 0; 1 changes nothing.
    frequency_penalty, presence_penalty: subtracted from a token's logit for every time that it was generated, and once if it
        was (OpenAI); 0 changes nothing. logit_bias: pairs of a token and what is added to its logit; a token is an id, or the
        text of one, which `text.token_ids.resolve` makes an id.
    dry_multiplier: 0 is off; the rest of DRY: see `dry`.
    seed: any integer; with the row's identity it determines every random number. None: the caller chooses one.
    stop: texts that end the row; never part of its text. stop_token_ids: ids that end it, without a text.
    ignore_eos: EOS is never drawn. ban: texts that never appear; see `text.banned`.
    stop_at: the row ends after a complete one; see `text.boundaries`.
    heal: the prompt's last word is drawn anew, by tokens that begin with its text; see `text.healing`.
    loop_guard: the row ends once it repeats itself without end; see `repetition`.
    regex, json_schema, grammar: what the text has to match, at most one of them; see `Constraint`.
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
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_sequence_breakers: tuple[str, ...] = DRY_BREAKERS
    seed: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    stop_at: Boundary | None = None
    ignore_eos: bool = False
    ban: tuple[str, ...] = ()
    heal: bool = False
    loop_guard: bool = False
    regex: str | None = None
    json_schema: str | None = None
    grammar: str | None = None
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
            _require(isinstance(token, str) or token >= 0, "--logit-bias", token, "token ids")
            _require(math.isfinite(added), "--logit-bias", added, "finite numbers")
        _require(0 <= self.dry_multiplier < math.inf, "--dry-multiplier", self.dry_multiplier, "0 (off) or more")
        _require(1 <= self.dry_base < math.inf, "--dry-base", self.dry_base, "1 or more")
        _require(self.dry_allowed_length >= 1, "--dry-allowed-length", self.dry_allowed_length, "1 or more")
        most = f"0 to {self.max_tokens}, or a larger --max-tokens"
        _require(0 <= self.min_tokens <= self.max_tokens, "--min-tokens", self.min_tokens, most)
        for token in self.stop_token_ids:
            _require(token >= 0, "--stop-token", token, "token ids")
        if self.stop_at is not None and self.stop_at not in get_args(Boundary):
            raise UsageError(f"--stop-at {self.stop_at!r} is not known", f"give {_BOUNDARIES}")
        _require(self.logprobs is None or 0 <= self.logprobs <= 100, "--logprobs", self.logprobs, "between 0 and 100")
        if not all(self.stop):
            raise UsageError("--stop is empty", "give a text to stop at, such as --stop 'Q:'")
        if not all(self.ban):
            raise UsageError("--ban is empty", "give a text to ban, such as --ban 'as an AI'")
        for text in self.ban:
            _require(len(text) <= _LONGEST_BAN, "--ban of length", len(text), f"texts of {_LONGEST_BAN} characters at most")
        if any("\ufffd" in text for text in self.ban):
            raise UsageError("--ban has U+FFFD, which stands for bytes that are no text", "leave it out")
        if not all(self.dry_sequence_breakers):
            raise UsageError("--dry-sequence-breaker is empty", "give a text, such as --dry-sequence-breaker ':'")
        self._check_constraint()

    def _check_constraint(self) -> None:
        flags = [flag_of(name) for name in KINDS if getattr(self, name) is not None]
        if len(flags) > 1 or (flags and self.heal):
            other = flags[1] if len(flags) > 1 else "--heal"
            raise UsageError(f"{flags[0]} cannot be combined with {other}", "leave one of them out", code="constraint_combined")
        _ = self.constraint  # Checks itself.

    @property
    def constraint(self) -> Constraint | None:
        """What the text has to match, if it has to match something."""
        return next((Constraint(name, source) for name in KINDS if (source := getattr(self, name)) is not None), None)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature < _GREEDY_TEMPERATURE

    @classmethod
    def from_given(
        cls, given: Mapping[str, Any], *, shown: Callable[[Any], str] = repr, guarded: bool = False
    ) -> "SamplingConfig":
        """Build from the options that were given; a sampling option without a temperature sets it to 1.0.

        shown: how messages write a value. guarded: greedy rows that are free have the loop guard unless they say otherwise.
        Raises UsageError for an unknown name or a value of the wrong type.
        """
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in _KINDS:
                raise UsageError(f"unknown sampling option {name!r}", f"use one of {', '.join(sorted(_KINDS))}")
            values[name] = _typed(name, value, _KINDS[name], shown)
        if "temperature" not in values and any(name in values for name in _IMPLIES_SAMPLING):
            values["temperature"] = 1.0
        # A match may have to repeat itself.
        if guarded and "loop_guard" not in values and not any(name in values for name in KINDS):
            values["loop_guard"] = values.get("temperature", 0.0) < _GREEDY_TEMPERATURE
        return cls(**values)


def choose_sampling(given: Mapping[str, Any], *, samples: int = 1, guarded: bool = False) -> SamplingConfig:
    """The sampling options that were given, with a seed where one is needed and none was given: it is reported, so that a
    text one likes can be had again. samples: completions of each prompt. guarded: see `from_given`. Raises UsageError.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    if samples < 1:
        raise UsageError(f"--num-samples {samples} is out of range", "give 1 or more")
    if samples > 1:
        settings.setdefault("temperature", 1.0)
    config = SamplingConfig.from_given(settings, guarded=guarded)
    if samples > 1 and config.greedy:
        cause = f"--num-samples {samples} at temperature {config.temperature:g} would give {samples} identical texts"
        raise UsageError(cause, "give --temperature 0.8")
    if config.greedy or config.seed is not None:
        return config
    import secrets  # Not at the top: it costs more than all else here, and greedy decoding does without.

    return replace(config, seed=secrets.randbits(31))


# Computed once, since a batch builds a config for each row that has options of its own.
INTEGERS = ("max_tokens", "min_tokens", "top_k", "dry_allowed_length", "seed", "logprobs")
TEXTS = ("stop", "ban", "dry_sequence_breakers")
FLAGS = ("ignore_eos", "heal", "loop_guard")
_OTHER: dict[str, type] = {**dict.fromkeys(KINDS, Constraint), "logit_bias": dict, "stop_token_ids": list, "stop_at": str}
_KINDS: dict[str, type] = {
    name: int if name in INTEGERS else tuple if name in TEXTS else bool if name in FLAGS else _OTHER.get(name, float)
    for name in (field.name for field in fields(SamplingConfig))
}


# What `model.generate` does not have, or means otherwise.
_LOOP_ONLY = ("frequency_penalty", "presence_penalty", "logit_bias", "dry_multiplier", "ban", "heal", "loop_guard", *KINDS)


def loop_only(config: SamplingConfig) -> str | None:
    """The flag of an option that is set and that olc's own decode loop alone has."""
    return next((flag_of(name) for name in _LOOP_ONLY if getattr(config, name)), None)


def flag_of(name: str) -> str:
    """An option's flag on the command line."""
    return _FLAGS.get(name) or "--" + name.replace("_", "-")


def option_of(flag: str) -> str:
    """The option that has a flag."""
    return next((name for name, other in _FLAGS.items() if other == flag), flag.removeprefix("--").replace("-", "_"))


def as_fields(text: str) -> str:
    """A message that names flags, as a client of JSON would write them: `--top-p` is `top_p`. What a quotation mark stands in
    front of is a value, and stays."""
    text = re.sub(r"such as (--[a-z-]+) '(.*)'", lambda found: f'such as "{option_of(found[1])}": "{found[2]}"', text)
    return re.sub(r"(?<![\w\"'-])--[a-z][a-z-]+", lambda found: option_of(found[0]), text)


def _typed(name: str, value: Any, kind: type, shown: Callable[[Any], str]) -> Any:
    flag = flag_of(name)
    if kind is Constraint:
        source = as_source(name, value)
        if source is None:
            wanted = "an object, or a text with one in JSON" if name == "json_schema" else "a text"
            raise UsageError(f"{flag} is {shown(value)}", f"give {wanted}")
        return source
    if kind is dict:
        return _biases(flag, value, shown)
    if kind is tuple:
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"{flag} is {shown(value)}", 'give a string or a list of strings, such as ["Q:", "END"]')
        return tuple(texts)
    if kind is list:
        if not isinstance(value, (list, tuple)) or not all(type(token) is int for token in value):
            raise UsageError(f"{flag} is {shown(value)}", "give a list of token ids, such as [13]")
        return tuple(value)
    if kind in (bool, str):
        if not isinstance(value, kind):
            allowed = "true or false" if kind is bool else _BOUNDARIES
            raise UsageError(f"{flag} is {shown(value)}", f"give {allowed}")
        return value
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise UsageError(f"{flag} is {shown(value)}", f"give {'an integer' if kind is int else 'a number'}")
    try:
        return kind(value)
    except OverflowError as error:
        raise UsageError(f"{flag} is too large", "give a smaller number") from error


def _biases(flag: str, value: Any, shown: Callable[[Any], str]) -> tuple[tuple[int | str, float], ...]:
    """{token: number}, the ids perhaps as texts, as JSON has them; pairs, as `SamplingConfig` has them, stay."""
    found: dict[int | str, float] = {}
    try:
        for token, added in value.items() if isinstance(value, Mapping) else value:
            if isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) < 16:
                token = int(token)
            if type(token) not in (int, str) or token == "" or isinstance(added, bool) or not isinstance(added, int | float):
                raise ValueError
            if token in found:  # "13" and "013"
                raise UsageError(
                    f"{flag} has token {f'id {token}' if type(token) is int else shown(token)} twice", "give it once"
                )
            found[token] = float(added)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{flag} is {shown(value)}", 'give an object of token ids and numbers, such as {"13": -100}') from None
    return tuple(sorted(found.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _require(holds: bool, flag: str, value: object, allowed: str) -> None:
    if not holds:
        if isinstance(value, int) and value.bit_length() > 64:  # thousands of digits could not even be printed
            raise UsageError(f"{flag} is too large", f"give {allowed}")
        raise UsageError(f"{flag} {value} is out of range", f"give {allowed}")
