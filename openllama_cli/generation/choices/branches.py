"""Choices as tokens: what a prompt and each of its choices have in common, and what follows it in each."""

from collections.abc import Sequence
from dataclasses import dataclass

from openllama_cli.errors import UsageError
from openllama_cli.generation.choices.config import Choices, quoted
from openllama_cli.models.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Branched:
    """prompt: the first tokens of the prompt with each of its choices, BOS included, as far as these agree with one another and
    with the prompt's own. branches: of each choice the tokens after these, at least one.
    """

    prompt: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]


def branch(tokenizer: Tokenizer, prompt: str, choices: Choices, context: int | None = None) -> Branched:
    """Tokenize a prompt with each of its choices as one text, as the model saw such text.

    A tokenizer may write the end of the prompt otherwise where a choice follows: a space that the prompt ends in becomes part
    of the choice's first token. Those tokens are the choices', in all of them.

    context: the model's, in tokens, which the prompt has to fit with each choice; None: it may be longer.

    Raises UsageError: choices_empty for a choice that adds no token, choices_duplicate for two with the same tokens,
    empty_prompt where no token is before the choices to predict them, context_length_exceeded.
    """
    own = tokenizer.encode(prompt)
    prefix = choices.prefix_after(prompt)
    joint: list[list[int]] = []
    first: dict[tuple[int, ...], str] = {}
    for text in choices.texts:
        tokens = tokenizer.encode(f"{prompt}{prefix}{text}")
        # At once: a prompt of megabytes is not to be read a thousand times to be refused.
        if context is not None and len(tokens) > context:
            raise UsageError(
                f"the prompt and its choice {quoted(text)} have {len(tokens)} tokens, but the model's context is {context}",
                f"shorten them by at least {len(tokens) - context} tokens",
                code="context_length_exceeded",
            )
        joint.append(tokens)
        if tokens == own:
            cause = f"the choice {quoted(text)} adds no token to the prompt"
            raise UsageError(cause, "leave it out: the model cannot see it", code="choices_empty")
        twin = first.setdefault(tuple(tokens), text)
        if twin is not text:
            cause = f"the choices {quoted(twin)} and {quoted(text)} are the same {len(tokens)} tokens with the prompt"
            raise UsageError(cause, "leave one of them out: the model cannot tell them apart", code="choices_duplicate")
    shared = min(min(map(len, joint)) - 1, *(_common(own, tokens) for tokens in joint))
    if shared < 1:
        raise UsageError(
            "no token comes before the choices, as the prompt is empty or one token with them, and the model has no BOS",
            "give a longer prompt",
            code="empty_prompt",
        )
    return Branched(tuple(own[:shared]), tuple(tuple(tokens[shared:]) for tokens in joint))


def branch_neutral(tokenizer: Tokenizer, choices: Choices, context: int | None = None) -> Branched | None:
    """The same with the neutral prompt, if the choices have one. Raises UsageError as `branch`."""
    if choices.neutral is None:
        return None
    try:
        return branch(tokenizer, choices.neutral, choices, context)
    except UsageError as error:
        if error.code != "empty_prompt":
            raise
        cause = "the neutral prompt is empty, and the model has no BOS token to start from"
        raise UsageError(cause, "give it a text, such as --calibrate-with N/A", code="empty_prompt") from error


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
