"""Choices as they were given: checked before a model is looked for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.tokenizer.base import utf8

Normalize = Literal["sum", "token", "byte"]

# Far more than any task has; each is tokenized with its prompt.
MOST_CHOICES = 1000


@dataclass(frozen=True)
class Choices:
    """The answers that there are, and how they are compared.

    texts: as they were given; two or more. prefix: stands between a prompt and each of them; None is a space, or nothing where
    the prompt is empty or ends in whitespace. normalize: what is compared: the log-likelihood, or this per token, or per byte
    of the choice in UTF-8. neutral: a prompt that says nothing about the answer; what it makes of each choice is subtracted
    from what the prompt makes of it ("calibration": Holtzman et al. 2021, "Surface form competition", domain-conditional PMI;
    Zhao et al. 2021, "Calibrate before use"). None: nothing is subtracted.

    Raises UsageError; its codes are choices_empty, choices_duplicate, choices_count, choices_normalize, invalid_unicode.
    """

    texts: tuple[str, ...]
    prefix: str | None = None
    normalize: Normalize = "sum"
    neutral: str | None = None

    def __post_init__(self) -> None:
        if len(self.texts) > MOST_CHOICES:
            cause = f"{len(self.texts):,} choices are more than {MOST_CHOICES:,}"
            raise UsageError(cause, f"give {MOST_CHOICES:,} at most", code="choices_count")
        known: set[str] = set()
        for place, text in enumerate(self.texts, start=1):
            if not text:
                raise UsageError(f"choice {place} is empty", "give it a text, or leave it out", code="choices_empty")
            if text in known:
                raise UsageError(f"the choice {quoted(text)} is given twice", "give each choice once", code="choices_duplicate")
            known.add(text)
        for given in (*self.texts, self.prefix, self.neutral):
            if given is not None:
                utf8(given)
        if len(self.texts) < 2:
            found = f"only the choice {quoted(self.texts[0])} was" if self.texts else "no choices were"
            raise UsageError(f"{found} given", "give at least two choices", code="choices_count")
        if self.normalize not in get_args(Normalize):
            raise UsageError(f"--choices-normalize is {self.normalize!r}", "give sum, token or byte", code="choices_normalize")

    def prefix_after(self, prompt: str) -> str:
        """What stands between this prompt and a choice."""
        if self.prefix is not None:
            return self.prefix
        return "" if not prompt or prompt[-1].isspace() else " "

    def after(self, prompt: str) -> list[str]:
        """What may follow this prompt: each choice, with what stands between."""
        prefix = self.prefix_after(prompt)
        return [prefix + text for text in self.texts]


# What says nothing where an answer is chosen, and the values of it that ask for nothing, programs' defaults among them.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "stream_options": (),
    "echo": (False,),
    "logprobs": (),
    "max_tokens": (16,),
    "temperature": (0, 1),
    "top_p": (1,),
    "top_k": (0,),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "seed": (),
    "stop": ([],),
    "add_special_tokens": (True,),
}

_DEFAULTS: dict[str, tuple[Any, ...]] = {
    option.name: (option.default, list(option.default) if isinstance(option.default, tuple) else option.default)
    for option in fields(SamplingConfig)
}


def out_of_place(options: Mapping[str, Any]) -> str | None:
    """The first of a request's options that makes no sense beside choices; None where there is none."""
    # Whatever else is for sampling: its default alone asks for nothing.
    for name, harmless in (_DEFAULTS | _HARMLESS).items():
        value = options.get(name)
        # True equals 1 in Python.
        if value is not None and not any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in harmless):
            return name
    return None


def quoted(text: str) -> str:
    """A choice in a message, short."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
