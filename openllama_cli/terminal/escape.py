"""Text from a model, a prompt or an error, made safe to show on a terminal."""

import re

# C0 and C1 control characters and DEL, but for newline and tab; lone surrogates, which cannot be encoded. An escape
# sequence in a model's output could otherwise retitle the window, move the cursor or hide text.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Show control characters as escapes (ESC becomes ``\x1b``); newline and tab stay."""
    return _UNSAFE.sub(lambda match: _escape(match.group()), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    """The same on one line, for messages: newlines and tabs are shown as escapes too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")
