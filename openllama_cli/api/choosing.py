"""Prompts whose answer is one of some choices: what `Model.choose` and `olc complete --choices` run on."""

from collections.abc import Sequence

from openllama_cli.api.run import Run, Runnable
from openllama_cli.generation.choices.branches import Branched
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.choices.scores import ScoredChoice, score_choices
from openllama_cli.generation.decode.config import SamplingConfig


class ChoiceRun:
    """Prompts with their choices, and the neutral prompt with them, if there is one, in one batch.

    run: what it ran on; the neutral prompt is its last row.
    """

    def __init__(self, model: Runnable, choices: Choices, prompts: Sequence[Branched], neutral: Branched | None) -> None:
        rows = [*prompts, *([] if neutral is None else [neutral])]
        self._choices, self._prompts, self._neutral = choices, prompts, neutral
        self.run = Run(
            model, [row.prompt for row in rows], SamplingConfig(max_tokens=0), branches=[row.branches for row in rows]
        )

    def finish(self) -> list[list[ScoredChoice]]:
        """Of each prompt the choices in the order in which they were given. Raises OlcError."""
        rows = self.run.finish().rows
        neutral = None if self._neutral is None else rows[-1].branches
        return [score_choices(self._choices, row.branches, neutral) for row in rows[: len(self._prompts)]]
