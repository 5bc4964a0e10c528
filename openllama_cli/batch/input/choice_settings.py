"""What holds for the choices of all rows of a batch."""

from dataclasses import dataclass, replace

from openllama_cli.generation.choices.config import Choices, Normalize


@dataclass(frozen=True)
class ChoiceSettings:
    """choices: of rows that bring none; None: these are completed. prefix, normalize: of rows' own choices too, see `Choices`.
    calibrate_with: stands in the neutral prompt in place of what a row is about; None: rows are not calibrated. option: one
    that was given and says nothing unless a row brings choices.
    """

    choices: Choices | None = None
    prefix: str | None = None
    normalize: Normalize = "sum"
    calibrate_with: str | None = None
    option: str | None = None

    def own(self, texts: tuple[str, ...]) -> Choices:
        """A row's own choices. Raises UsageError."""
        return Choices(texts, self.prefix, self.normalize)

    def calibrated(self, choices: Choices, neutral: str) -> Choices:
        """With a row's neutral prompt."""
        return choices if choices.neutral == neutral else replace(choices, neutral=neutral)
