"""How many examples a model's context has room for."""

import bisect
from collections.abc import Callable, Sequence

from openllama_cli.errors import OlcError
from openllama_cli.few_shot.prompts import FewShotPrompt


class Fitting:
    """Leaves out a prompt's last examples until it fits, so that what stays begins as the other prompts do.

    count: tokens of a text, BOS included. context: the model's, in tokens. cut: prompts that lost examples. least: how many the
    shortest of them has.
    """

    def __init__(self, count: Callable[[str], int], context: int) -> None:
        self._count, self.context = count, context
        self.cut = 0
        self.least = 0

    def __call__(self, prompt: FewShotPrompt, max_tokens: int, endings: Sequence[str] = ("",)) -> FewShotPrompt:
        """The prompt with as many of its first examples as leave room; without any it may still be too long.

        max_tokens: that are to follow it. endings: texts, each of which is to have room after it.
        """

        def fits(prompt: FewShotPrompt) -> bool:
            try:
                return max(self._count(prompt.text + ending) for ending in endings) + max_tokens <= self.context
            except OlcError:  # a text that is none; whoever runs the prompt says so
                return True

        if fits(prompt):
            return prompt
        # A prompt with more examples has no fewer tokens.
        too_many = bisect.bisect_left(range(len(prompt.shots)), True, key=lambda count: not fits(prompt.first(count)))
        kept = max(too_many - 1, 0)
        if kept < len(prompt.shots):
            self.least = min(self.least, kept) if self.cut else kept
            self.cut += 1
        return prompt.first(kept)
