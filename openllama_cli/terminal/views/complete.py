"""What `olc complete` shows: completions on stdout as they stream, and timings on stderr."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from openllama_cli.terminal.streams import is_terminal, notice, out


class CompletionWriter(AbstractContextManager["CompletionWriter"]):
    """Writes the completions of a prompt in the order of their rows, each followed by one newline.

    On a terminal the prompt is shown dim before each; in a pipe only with `echo`. Without `stream` a completion is written
    when it is finished.
    """

    def __init__(self, prompt: str, rows: int, *, echo: bool, stream: bool) -> None:
        self._prompt = prompt if echo or is_terminal(sys.stdout) else ""
        self._style = "" if echo else "dim"
        self._stream = stream
        self._texts = [""] * rows
        self._ended = [False] * rows
        self._row = 0
        self._begun = False

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # After Ctrl-C within a line the shell's prompt goes on a new one.
        if error is not None and self._begun and is_terminal(sys.stdout):
            out("\n")

    def write(self, row: int, text: str, *, last: bool) -> None:
        """Add to a row's text; that of a later row is held back until the rows before it have ended."""
        self._texts[row] += text
        self._ended[row] |= last
        while self._row < len(self._texts) and (self._stream or self._ended[self._row]):
            if not self._begun and self._prompt:
                out(self._prompt, style=self._style)
            self._begun = True
            text, self._texts[self._row] = self._texts[self._row], ""
            if text:
                out(text)
            if not self._ended[self._row]:
                return
            out("\n")
            self._row += 1
            self._begun = False


@dataclass(frozen=True)
class Stats:
    """timings: see `Timings.as_dict`; what is not known may be missing. device, dtype, forward: what computed; None where a
    server does not say so. server: that answered; None where the model is loaded here."""

    timings: Mapping[str, float | None]
    device: str | None
    dtype: str | None
    forward: str | None
    server: str | None = None


def show_stats(stats: Stats) -> None:
    """Write one line of timings to stderr."""
    known = stats.timings
    parts = [] if stats.forward is None else [f"{stats.forward} on {stats.device} in {stats.dtype}"]
    parts.append(f"loaded in {_figure(known['load_s'])} s" if stats.server is None else f"answered by {stats.server}")
    parts += [
        words.format(_figure(known[name]))
        for name, words in (
            ("time_to_first_token_s", "first token after {} s"),
            ("prefill_tokens_per_s", "prefill {} tokens/s"),
            ("decode_tokens_per_s", "decode {} tokens/s"),
            ("total_s", "total {} s"),
        )
        if name in known
    ]
    notice("; ".join(parts))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
