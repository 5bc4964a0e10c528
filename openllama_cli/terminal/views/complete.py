"""What `olc complete` shows: completions on stdout as they stream, and timings on stderr."""

import sys
from contextlib import AbstractContextManager

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


def show_stats(timings: dict[str, float | None], *, device: str, dtype: str, forward: str) -> None:
    """Write one line of timings (see `Timings.as_dict`) to stderr."""
    parts = [f"{forward} on {device} in {dtype}", f"loaded in {_figure(timings['load_s'])} s"]
    parts += [
        f"first token after {_figure(timings['time_to_first_token_s'])} s",
        f"prefill {_figure(timings['prefill_tokens_per_s'])} tokens/s",
        f"decode {_figure(timings['decode_tokens_per_s'])} tokens/s",
        f"total {_figure(timings['total_s'])} s",
    ]
    notice("; ".join(parts))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
