"""stdout carries the result, stderr everything else, and a terminal never gets control characters from a text.

`out` writes the result: byte-exact UTF-8 in a pipe, control characters shown as escapes on a terminal. `notice`, `hint`
and `error` write to stderr. Nothing here passes through rich markup, so brackets in a prompt or a path stay as they are.
"""

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from openllama_cli.errors import OlcError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.containers import Lines
    from rich.text import Text

# C0 and C1 control characters and DEL, except newline and tab; lone surrogates, which cannot be encoded. An escape sequence
# in a model's output could otherwise retitle the window, move the cursor or hide text.
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
# What makes a terminal show text in another order or not at all: marks, embeddings, overrides and isolates of the bidirectional
# algorithm, separators of lines and paragraphs, deprecated format characters, annotations, tags. Joiners and variation
# selectors, which scripts and emoji need, are not among them.
_REORDERING = r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\U000e0000-\U000e007f"
# The flags of England, Scotland and Wales are spelled with tags.
_FLAG = "\U0001f3f4[\U000e0061-\U000e007a]{1,6}\U000e007f"
_UNSAFE = re.compile(f"{_FLAG}|[{_CONTROLS}{_REORDERING}]")
_CONTROL = re.compile(f"[{_CONTROLS}]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def visible(text: str) -> str:
    r"""For a terminal: controls and what reorders or hides text as escapes (ESC becomes ``\x1b``); newline and tab stay."""
    return _UNSAFE.sub(lambda match: match.group() if len(match.group()) > 1 else escaped(match.group()), text)


def escaped(character: str) -> str:
    r"""As Python spells it: ``\r``, ``\x1b``, ``\u200d``, ``\U000e0001``."""
    if character == "\r":
        return "\\r"
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """The same on one line, for messages: newlines and tabs are shown as escapes too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def cell(text: str) -> str:
    """For a column in a pipe: exact but for controls, newlines and tabs, which are shown as escapes."""
    return _CONTROL.sub(lambda match: escaped(match.group()), text).replace("\n", "\\n").replace("\t", "\\t")


# In a remedy: `olc …`, or what stands after a colon up to the next semicolon.
_COMMAND = re.compile(r"""`[^`]*`|(?<=: )olc (?:'[^']*'|"[^"]*"|[^;'"])*""")
# In place of a blank, where a line is not to be broken.
_NO_BREAK = "\ufdd0"


def _console(**where: Any) -> "Console":
    # rich is imported for who sees it: an answer that goes into a pipe has no need of it, and would wait for it.
    from rich.console import Console

    class OurConsole(Console):
        """rich's console, except when a reader is gone: rich would discard stdout, even for stderr, and exit with 1.

        And it crops nothing: rich breaks a line by its width, but crops it by that of its styled parts, which is more where an
        emoji of several characters lies in two of them.
        """

        def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
            super().print(*objects, crop=crop, **options)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return OurConsole(highlight=False, markup=False, emoji=False, soft_wrap=True, **where)


@cache
def stdout_console() -> "Console":
    """The console of the result; rich chooses colors by the terminal, NO_COLOR and FORCE_COLOR."""
    return _console()


@cache
def stderr_console() -> "Console":
    """The console of notices, progress and errors."""
    return _console(stderr=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal. One that the caller has closed (None if olc started without it) is not."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def stdin_has_input() -> bool:
    """Whether stdin is a pipe or a file, and not a terminal, the null device or closed."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def out(text: str, *, style: str = "") -> None:
    """Write part of the result, with nothing added. style: a rich style, used on a terminal only.

    Raises OlcError if it cannot be written, BrokenPipeError if its reader is gone.
    """
    if sys.stdout is None:
        raise OlcError("stdout is closed, so the result has nowhere to go", "remove `>&-`, or redirect stdout to a file")
    try:
        if is_terminal(sys.stdout):
            from rich.text import Text

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
        raise unwritable(problem) from problem


def out_lines(lines: Iterable[str]) -> None:
    """Write lines of the result, which a terminal gets broken at words."""
    if not is_terminal(sys.stdout):
        out("".join(f"{line}\n" for line in lines))
        return
    from rich.text import Text

    for line in lines:
        stdout_console().print(Text(visible(line)), soft_wrap=False)


def unwritable(problem: OSError) -> OlcError:
    """The error of a stdout that takes no more; what has not been written is discarded."""
    drop(sys.stdout)
    return OlcError(
        f"the result cannot be written to stdout: {problem.strerror}", "free some space there, or redirect it elsewhere"
    )


def drop(stream: TextIO | None) -> None:
    """Discard the rest of a stream that cannot be written; Python would complain again when it flushes it."""
    if stream is None:  # The caller closed it.
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def out_json(document: Any) -> None:
    """Write one JSON document on one line, which a terminal gets with the escapes of JSON for what it must not get raw."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    if not text.isascii() and _SURROGATE.search(text):
        text = json.dumps(document, allow_nan=False)  # UTF-8 has no lone surrogates, but JSON's escapes have.
    if is_terminal(sys.stdout):
        text = _UNSAFE.sub(lambda match: match.group() if len(match.group()) > 1 else _json_escaped(match.group()), text)
    out(text + "\n")


def _json_escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else f"\\u{ord(character):04x}"


def message(text: "RenderableType", *, wrap: bool = True) -> None:
    """A line or a table on stderr, wrapped at words on a terminal only. If stderr cannot be written the work continues.

    wrap: false for what is to be copied: a terminal's own wrapping is not part of what is copied.
    """
    try:
        stderr_console().print(text, soft_wrap=not wrap or not is_terminal(sys.stderr))
    except OSError:
        drop(sys.stderr)


def notice(text: str) -> None:
    """A line on stderr about what olc is doing."""
    from rich.text import Text

    message(Text(visible(text), style="dim"))


def note(text: str) -> None:
    """A notice that begins with "olc: "."""
    notice(f"olc: {text}")


def hint(text: str) -> None:
    """A line on stderr about a possible mistake."""
    from rich.text import Text

    message(Text.assemble(("hint: ", "yellow"), visible(text)))


def error(cause: str, remedy: str) -> None:
    """The two lines of an expected failure: the cause, and what to do. Commands in the remedy stay whole, to be copied."""
    from rich.text import Text

    message(Text.assemble(("error: ", "bold red"), one_line(cause)))
    unbroken = _COMMAND.sub(lambda command: command.group().replace(" ", _NO_BREAK), one_line(remedy))
    fix = Text.assemble(("  fix: ", "bold green"), unbroken)
    for line in _at_words(fix, stderr_console().width) if is_terminal(sys.stderr) else [fix]:
        line.plain = line.plain.replace(_NO_BREAK, " ")
        message(line, wrap=False)


def _at_words(text: "Text", width: int) -> "Lines":
    """A text in lines of some width at most, but for longer words. rich's own way would break these."""
    from rich.cells import cell_len

    breaks, used = [], 0
    for word in re.finditer(r"\s*\S+\s*", text.plain):
        if used and used + cell_len(word.group().rstrip()) > width:
            breaks.append(word.start())
            used = 0
        used += cell_len(word.group())
    lines = text.divide(breaks)
    for line in lines:
        line.rstrip()
    return lines
