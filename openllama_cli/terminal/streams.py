"""stdout carries the result, stderr everything else.

`out` writes the result: byte-exact UTF-8 in a pipe, control characters shown as escapes on a terminal. `notice`, `hint`
and `error` write to stderr. Nothing here passes through rich markup, so brackets in a prompt or a path stay what they are.
"""

import errno
import json
import os
import sys
from functools import cache
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from openllama_cli.errors import OlcError
from openllama_cli.terminal.escape import one_line, visible


class _Console(Console):
    """rich's console, but for what it does when a reader has gone: send stdout nowhere, even for stderr, and exit with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@cache
def stdout_console() -> Console:
    """The console of the result; rich decides on color from the terminal, NO_COLOR and FORCE_COLOR."""
    return _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


@cache
def stderr_console() -> Console:
    """The console of notices, progress and errors."""
    return _Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at this stream. One that the caller has closed (None where olc began without it) is none."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def out(text: str, *, style: str = "") -> None:
    """Write part of the result, with nothing added. style: a rich style, used on a terminal only.

    Raises OlcError where it cannot be written, but BrokenPipeError where its reader has gone.
    """
    if sys.stdout is None:
        raise OlcError("stdout is closed, so the result has nowhere to go", "leave out `>&-`, or send it to a file")
    try:
        if is_terminal(sys.stdout):
            stdout_console().print(Text(visible(text), style=style), end="", soft_wrap=True)
            sys.stdout.flush()
            return
        sys.stdout.flush()
        # Bytes, since text mode would translate newlines on some systems and fail on what the locale cannot hold.
        sys.stdout.buffer.write(text.encode("utf-8", "surrogatepass"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        drop(sys.stdout)
        raise OlcError(
            f"the result cannot be written to stdout: {problem.strerror}", "free some space where it goes, or send it elsewhere"
        ) from problem


def drop(stream: TextIO) -> None:
    """Send the rest of a stream that cannot be written nowhere; Python would complain of it once more when it flushes it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def out_json(document: Any) -> None:
    """Write one JSON document on one line, the same in a pipe and on a terminal."""
    out(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")


def message(text: Text) -> None:
    """A line on stderr: wrapped at words on a terminal, whole in a pipe. Where stderr cannot be written the work goes on."""
    try:
        stderr_console().print(text, soft_wrap=not is_terminal(sys.stderr))
    except OSError:
        drop(sys.stderr)


def notice(text: str) -> None:
    """A line on stderr about what is being done."""
    message(Text(visible(text), style="dim"))


def note(text: str) -> None:
    """A notice that says whom it is from."""
    notice(f"olc: {text}")


def hint(text: str) -> None:
    """A line on stderr about what the user may have meant."""
    message(Text.assemble(("hint: ", "yellow"), visible(text)))


def error(cause: str, remedy: str) -> None:
    """The two lines of an expected failure: the cause, and what to do."""
    message(Text.assemble(("error: ", "bold red"), one_line(cause)))
    message(Text.assemble(("  fix: ", "bold green"), one_line(remedy)))
