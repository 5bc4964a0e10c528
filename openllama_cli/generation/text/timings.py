"""How long the parts of a run took, told by the steps as they come."""

import time
from dataclasses import dataclass, field

from openllama_cli.generation.text.stream import TextStep


@dataclass
class Timings:
    """The clock of one run over some rows; start it right before the first prefill.

    load_s: seconds that loading the model took. prompt_tokens: of the first row's prompt.
    """

    load_s: float
    prompt_tokens: int
    started: float = field(default_factory=time.perf_counter)
    prefilled: float | None = None
    first: float | None = None
    last: float | None = None
    decoded: int = 0
    decode_s: float = 0.0
    _begun: set[int] = field(default_factory=set)

    def add(self, step: TextStep) -> None:
        """Note a step at the time it comes."""
        now = time.perf_counter()
        if self.prefilled is None and (step.prompt or step.scored is not None):
            self.prefilled = now
        if step.scored is not None:
            if step.row in self._begun:
                self.decoded += 1
                self.decode_s += now - (self.last or self.started)
            self._begun.add(step.row)
            self.first = self.first or now
        self.last = now

    def as_dict(self) -> dict[str, float | None]:
        """Seconds, and tokens a second; null where nothing was measured.

        time_to_first_token_s runs from the start of prefill. prefill_tokens_per_s is of the first row: the same prompt run
        once more takes less. decode_tokens_per_s is of all rows together, each from its second token on, without the time that
        other rows' prefills take. total_s is loading and generation together.
        """
        to_first = None if self.first is None else self.first - self.started
        prefill = None if self.prefilled is None else self.prefilled - self.started
        return {
            "load_s": _rounded(self.load_s),
            "time_to_first_token_s": _rounded(to_first),
            "prefill_tokens_per_s": _rounded(self.prompt_tokens / prefill if prefill else None),
            "decode_tokens_per_s": _rounded(self.decoded / self.decode_s if self.decode_s else None),
            "total_s": _rounded(self.load_s + (self.last or self.started) - self.started),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
