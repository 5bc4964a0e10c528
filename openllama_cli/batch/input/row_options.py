"""The sampling options that a row gives for itself, over those of the command."""

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from openllama_cli.batch.input.rows import RowError, RowSettings, check_text
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig

# What a field may be called → the option that it is.
_OPTIONS = {option.name: option.name for option in fields(SamplingConfig)} | {
    "max_new_tokens": "max_tokens",
    "max_gen_len": "max_tokens",
}
# Options of other programs that change the text and do not exist here: values that ask for nothing, and what to do otherwise.
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "best_of": ((1,), "leave it out"),
    "presence_penalty": ((0, 0.0), "leave it out, or use repetition_penalty"),
    "frequency_penalty": ((0, 0.0), "leave it out, or use repetition_penalty"),
    "logit_bias": (({},), "leave it out"),
}
# These mean an option in OpenAI's format only; elsewhere they may be anybody's data.
_UNSUPPORTED_IN_OPENAI: dict[str, tuple[tuple[Any, ...], str]] = _UNSUPPORTED | {
    "n": ((1,), "give each completion its own line and seed"),
    "stream": ((False,), "leave it out: rows are written when they are complete"),
    "suffix": (("",), "leave it out: these models complete a text only at its end"),
}
# Fields that are read elsewhere; written in another case or with dashes they are typos as well.
_OTHER_FIELDS = ("custom_id", "prompt")
# From this length on, a name that differs from an option's by a letter or two is a typo; below it, a word of its own.
_LONG_NAME = 8
_LONGEST_NAME = 40


def read_options(
    given: Mapping[str, Any], settings: RowSettings, *, openai: bool = False, variables: tuple[str, ...] = ()
) -> tuple[SamplingConfig, bool]:
    """What a row asks for, and whether it gave a seed.

    given: the row's fields; those that are not options are ignored, and null counts as not given.
    openai: whether they are the body of an OpenAI line. variables: fields that belong to the template, whatever their name.

    Raises RowError: bad_option for a value that is wrong and for a name that is nearly an option's,
    unsupported_option for what other programs have.
    """
    unsupported = _UNSUPPORTED_IN_OPENAI if openai else _UNSUPPORTED
    names = [name for name in given if name not in variables and name not in _OTHER_FIELDS]
    for name in names:
        if name in _OPTIONS or name in unsupported or len(name) > _LONGEST_NAME:
            continue
        if (meant := _meant(name)) is not None:
            raise RowError("bad_option", f"unknown field {name!r}; did you mean {meant}? If not, rename it")
    for name in names:
        if name in unsupported:
            _refuse_unsupported(name, given[name])
    own: dict[str, Any] = {}
    for name in names:
        if name in _OPTIONS and given[name] is not None:
            if _OPTIONS[name] in own:
                raise RowError("bad_option", f"{_OPTIONS[name]} is given twice, under two names")
            own[_OPTIONS[name]] = given[name]
    if not own:
        return settings.sampling, False
    if "stop" in own:
        _check_stop(own["stop"])
    try:
        return SamplingConfig.from_given({**settings.defaults, **own}), "seed" in own
    except UsageError as error:
        # A flag's name is the option's, spelled for a command line. The cause begins with it, and may quote a value.
        cause = re.sub(r"^--([a-z-]+)", _as_field, error.cause)
        remedy = re.sub(r"--([a-z-]+)", _as_field, error.remedy)
        raise RowError("bad_option", f"{cause}; {remedy}") from None
    except OverflowError:  # an integer beyond what a float can hold
        raise RowError("bad_option", f"a number is too large in {', '.join(own)}") from None


def _refuse_unsupported(name: str, value: Any) -> None:
    harmless, remedy = _UNSUPPORTED_IN_OPENAI[name]
    # Types are compared too: True equals 1 in Python.
    if value is None or any(type(value) is type(allowed) and value == allowed for allowed in harmless):
        return
    raise RowError("unsupported_option", f"{name} is {value!r}, which olc does not have; {remedy}")


def _as_field(flag: re.Match[str]) -> str:
    return flag[1].replace("-", "_")


def _check_stop(stop: Any) -> None:
    for text in stop if isinstance(stop, list) else [stop]:
        if isinstance(text, str):
            check_text(text, "stop")


@lru_cache(maxsize=1024)
def _meant(name: str) -> str | None:
    """The option that an unknown name is a typo for: other case or dashes, or nearly the same letters."""
    import difflib

    plain = re.sub(r"[-_ ]", "", name).lower()
    known = {option.replace("_", ""): option for option in (*_OPTIONS, *_OTHER_FIELDS)}
    if plain in known:
        return known[plain]
    # Of options only: customer_id is nobody's typo for custom_id.
    long = [plain_name for plain_name, option in known.items() if option in _OPTIONS and len(plain_name) >= _LONG_NAME]
    close = difflib.get_close_matches(plain, long, n=1, cutoff=0.85)
    return known[close[0]] if close else None
