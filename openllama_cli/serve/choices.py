"""Choices in a completions request, which are olc's own: read, and answered with the most likely of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.errors import OlcError
from openllama_cli.generation.choices.branches import Branched, branch, branch_neutral
from openllama_cli.generation.choices.config import Choices, out_of_place
from openllama_cli.generation.choices.document import choice_of, olc_of
from openllama_cli.generation.choices.scores import ScoredChoice, score_choices
from openllama_cli.serve.errors import ApiError, bad, of_olc

if TYPE_CHECKING:
    from openllama_cli.generation.text.completion import Completion
    from openllama_cli.models.tokenizer.base import Tokenizer
    from openllama_cli.serve.engine import Facts

_FIELDS = ("choices", "choices_prefix", "choices_normalize", "calibrate_with")
# Of one request: prompts times choices. Each is tokenized, and all are in the answer.
MOST_BRANCHES = 16_384
# Characters of all of these texts, prompts included: some ten seconds of tokenizing.
MOST_CHARACTERS = 32 << 20
# Tokens of all choices after all prompts: some 300 bytes of memory each until the answer has been sent.
MOST_TOKENS = 262_144


@dataclass(frozen=True)
class Choosing:
    """What a request chooses from. prompts: its prompts with their choices. neutral: the neutral prompt with them, if there is
    one."""

    choices: Choices
    prompts: tuple[Branched, ...]
    neutral: Branched | None

    @property
    def rows(self) -> tuple[Branched, ...]:
        """All that is to be run, the neutral prompt last."""
        return (*self.prompts, *([] if self.neutral is None else [self.neutral]))

    def scored(self, rows: "Sequence[Completion]") -> list[list[ScoredChoice]]:
        """The choices of each prompt, once all rows have ended."""
        neutral = None if self.neutral is None else rows[-1].branches
        return [score_choices(self.choices, row.branches, neutral) for row in rows[: len(self.prompts)]]

    def answers(self, scored: Sequence[Sequence[ScoredChoice]]) -> list[dict[str, Any]]:
        """The choices of OpenAI's answer."""
        return [
            {**choice_of(index, one), "olc": {"finish_reason": "stop", "seed": None, **olc_of(self.choices, one)}}
            for index, one in enumerate(scored)
        ]


def read_choices(body: Mapping[str, Any]) -> Choices | None:
    """What a request chooses from; None where it completes. Raises ApiError."""
    given = {name: body[name] for name in _FIELDS if body.get(name) is not None}
    if not given:
        return None
    if "choices" not in given:
        name = next(iter(given))
        raise bad(f"{name} is for choices, and there are none; send them as a list of texts, or leave it out", name)
    for name, value in given.items():
        texts = value if name == "choices" else [value]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise bad(f"{name} is not {'a list of texts' if name == 'choices' else 'a text'}; send one", name)
    odd = out_of_place(body)
    if odd is not None:
        message = f"{odd} says nothing beside choices, as the answer is one of them and nothing is sampled; leave it out"
        raise bad(message, odd, "unsupported_option")
    try:
        return Choices(
            tuple(given["choices"]),
            given.get("choices_prefix"),
            given.get("choices_normalize", "sum"),
            given.get("calibrate_with"),
        )
    except OlcError as error:
        raise _about_choices(error) from error


def branched(body: Mapping[str, Any], choices: Choices, tokenizer: "Tokenizer", facts: "Facts") -> Choosing:
    """The prompts of a request with their choices, as tokens. Raises ApiError."""
    given = body.get("prompt")
    prompts = [given] if isinstance(given, str) else given
    if not isinstance(prompts, list) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        message = "choices are tokenized together with their prompt; send the prompt as a text, or a list of texts"
        raise bad(message, "prompt", "unsupported_option")
    if len(prompts) * len(choices.texts) > MOST_BRANCHES:
        message = f"{len(prompts)} prompts with {len(choices.texts)} choices each are more than {MOST_BRANCHES} texts"
        raise bad(f"{message}; send several requests", "choices", "too_many_completions")
    characters = len(prompts) * sum(map(len, choices.texts)) + len(choices.texts) * sum(map(len, prompts))
    if characters > MOST_CHARACTERS:
        message = f"{len(prompts)} prompts with {len(choices.texts)} choices each have {characters} characters together"
        raise bad(f"{message}, and {MOST_CHARACTERS} are the most; send several requests", "choices", "too_many_completions")
    found: list[Branched] = []
    tokens = 0
    try:
        for prompt in prompts:
            found.append(branch(tokenizer, prompt, choices, facts.context))
            tokens += sum(map(len, found[-1].branches))
            if tokens > MOST_TOKENS:
                message = f"the choices after {len(found)} of {len(prompts)} prompts have {tokens} tokens together"
                raise bad(f"{message}, and {MOST_TOKENS} are the most; send fewer", "choices", "too_many_completions")
        return Choosing(choices, tuple(found), branch_neutral(tokenizer, choices, facts.context))
    except OlcError as error:
        raise _about_choices(error) from error


def _about_choices(error: OlcError) -> ApiError:
    found = of_olc(error)
    found.param = "calibrate_with" if "--calibrate-with" in error.remedy else found.param or "choices"
    return found
