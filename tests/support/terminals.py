"""olc on a pseudo-terminal."""

import os
import pty
import re
import select
import termios
import time
from typing import Self

from tests.support.forked import Forked

# What a terminal, or whoever started the tests, may have said of colors and sizes.
_SAID = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI")


class Terminal:
    """A run of olc that reads from a terminal and writes to it, and what is shown.

    stdout, stderr: False leaves it out: it becomes the process's `out` or `err`. environment: variables besides those of the
    tests.
    """

    def __init__(
        self, *arguments: str, columns: int = 60, stdout: bool = True, stderr: bool = True, **environment: str
    ) -> None:
        self._leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (24, columns))
        kept = {name: value for name, value in os.environ.items() if name not in _SAID}
        self.process = Forked(
            *arguments,
            stdin=follower,
            stdout=follower if stdout else None,
            stderr=follower if stderr else None,
            env={**kept, "TERM": "xterm-256color", **environment},
        )
        os.close(follower)
        self._shown = b""

    def type(self, keys: bytes) -> None:
        os.write(self._leader, keys)

    def read(self, until: bytes | None = None, timeout: float = 60) -> str:
        """What is shown, once `until` is, or all of it at the end."""
        ends = time.monotonic() + timeout
        while until is None or until not in self._shown:
            assert select.select([self._leader], [], [], max(0, ends - time.monotonic()))[0], self._shown
            try:
                part = os.read(self._leader, 65536)
            except OSError:  # Linux says so when the other side is closed.
                break
            if not part:
                break
            self._shown += part
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)


def on_a_terminal(*arguments: str, columns: int, code: int = 0, stderr: bool = True, **environment: str) -> str:
    """What olc shows on a terminal of this width. code: how it is to end."""
    with Terminal(*arguments, columns=columns, stderr=stderr, **environment) as terminal:
        shown = terminal.read()
        assert terminal.process.wait() == code, shown
    return shown


def remaining(text: str) -> str:
    """The text without colors, links and what a spinner has drawn over."""
    return "\n".join(line.rpartition("\r")[2] for line in without_color(text).split("\n"))


def without_color(text: str) -> str:
    """The text without colors, links, and what draws a line anew."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\]8;[^\x1b]*\x1b\\", "", text)
