"""A chosen answer in the form of OpenAI's `text_completion` object: its choice, its usage, and what `olc` says of it."""

from collections.abc import Sequence
from typing import Any

from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.choices.scores import ScoredChoice, best


def choice_of(index: int, scored: Sequence[ScoredChoice]) -> dict[str, Any]:
    """One entry of `choices`: the best of those that were given."""
    return {"index": index, "text": best(scored).text, "finish_reason": "stop", "logprobs": None}


def olc_of(choices: Choices, scored: Sequence[ScoredChoice]) -> dict[str, Any]:
    """What `olc` says of it."""
    documents = [choice.document() for choice in scored]
    return {"choices": documents, "normalize": choices.normalize, "calibrated": choices.neutral is not None}


def usage_of(prompt_tokens: int, scored: Sequence[Sequence[ScoredChoice]]) -> dict[str, int]:
    """OpenAI's `usage`: the prompts' tokens, and those of the answers."""
    answers = sum(best(one).tokens for one in scored)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": answers, "total_tokens": prompt_tokens + answers}
