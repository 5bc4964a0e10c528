"""Neutral prompts of calibrated rows: each runs once, right before the first row that needs it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from openllama_cli.batch.input.rows import RowError
from openllama_cli.errors import OlcError
from openllama_cli.generation.choices.branches import branch_neutral
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.request import Request, Scored
from openllama_cli.generation.text.completion import Completion
from openllama_cli.generation.text.stream import TextStep
from openllama_cli.models.tokenizer.base import Tokenizer

# Known at a time: rows of one template have one, or a few in turn.
_MOST = 64
_NOTHING = SamplingConfig(max_tokens=0)


@dataclass
class Neutrals:
    """What the model makes of choices after their neutral prompts. context: of the model, in tokens."""

    tokenizer: Tokenizer
    context: int
    _known: dict[Choices, Completion | RowError] = field(default_factory=dict)
    _running: dict[int, tuple[Choices, Completion]] = field(default_factory=dict)

    def before(self, choices: Choices | None) -> Iterator[Request]:
        """What has to run before a row with these choices, if anything. Its row is below 0, unlike those of the input."""
        if choices is None or choices.neutral is None or choices in self._known:
            return
        while len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        try:
            neutral = branch_neutral(self.tokenizer, choices, self.context)
            assert neutral is not None
        except OlcError as error:
            self._known[choices] = RowError(error.code, f"the neutral prompt: {error.cause}")
            return
        number = min(self._running, default=0) - 1
        self._running[number] = (choices, Completion(neutral.prompt))
        yield Request(number, neutral.prompt, _NOTHING, branches=neutral.branches)

    def add(self, step: TextStep) -> bool:
        """Take a step that is a neutral prompt's; whether it is one."""
        if step.row >= 0:
            return False
        choices, completion = self._running[step.row]
        if step.error is not None:
            self._known[choices] = RowError(step.error.code, f"the neutral prompt: {step.error.cause}")
        else:
            completion.add(step)
            if step.finish_reason is not None:
                self._known[choices] = completion
        if choices in self._known:
            del self._running[step.row]
        return True

    def of(self, choices: Choices) -> tuple[tuple[Scored, ...], ...] | None:
        """The scored tokens of choices after their neutral prompt, which ran before; None without one. Raises RowError."""
        if choices.neutral is None:
            return None
        found = self._known[choices]
        if isinstance(found, RowError):
            raise found
        return found.branches
