"""Progress: something moves on a terminal from the start on, and long work is heard of in a pipe."""

import io
import sys
import time

import pytest

from openllama_cli.terminal import progress
from openllama_cli.terminal.progress import TerminalProgress, working
from openllama_cli.terminal.streams import stderr_console


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal in the place of stderr. No fixture: pytest gives stderr anew between set-up and test."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Screen()
    monkeypatch.setattr(sys, "stderr", terminal)
    stderr_console.cache_clear()
    return terminal


@pytest.mark.parametrize("total", [None, 1_000_000])
def test_something_moves_while_nothing_is_counted(monkeypatch: pytest.MonkeyPatch, total: int | None) -> None:
    terminal = screen(monkeypatch)
    bar = TerminalProgress()
    bar.start("loading", total)
    time.sleep(0.5)
    bar.finish()
    stderr_console.cache_clear()
    frames = {letter for letter in terminal.getvalue() if "\u2800" <= letter <= "\u28ff"}
    assert len(frames) > 1, "the spinner turns"


def test_a_pipe_hears_nothing_of_short_work(capfd: pytest.CaptureFixture[str]) -> None:
    stderr_console.cache_clear()
    bar = TerminalProgress()
    bar.start("loading", 1000)
    bar.advance(1000)
    bar.finish()
    with working("thinking"):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_pipe_hears_of_every_step(capfd: pytest.CaptureFixture[str]) -> None:
    stderr_console.cache_clear()
    bar = TerminalProgress()
    bar.start_steps("measuring", 2)
    bar.step("measuring [olc]", 0)
    bar.step("measuring llama.cpp", 1)
    bar.finish()
    assert capfd.readouterr() == ("", "measuring [olc] (0 of 2 done)\nmeasuring llama.cpp (1 of 2 done)\n")


def test_a_pipe_hears_how_far_long_work_is(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    stderr_console.cache_clear()
    bar = TerminalProgress()
    bar.start("model.safetensors", 2_000_000)
    bar.advance(500_000)
    assert capfd.readouterr().err == "", "how long the first bytes took says nothing of the speed"
    time.sleep(0.01)
    bar.advance(500_000)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("model.safetensors: 1.0 MB of 2.0 MB, ")
    assert line.endswith(" left")
