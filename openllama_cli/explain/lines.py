"""Lines of logs and tracebacks: what is in front of the message, what is source code, what must not be shown."""

import re

# Colors and other terminal sequences; links and titles (OSC) with what ends them.
_TERMINAL = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,500}(?:\x07|\x1b\\)")

# What stands in front of a message: ranks of torchrun, times and levels of logs, frames drawn around tracebacks, quote marks.
_PREFIX = re.compile(
    r"""\s*(?:
      \[?(?:rank|default)\s?\d{1,5}\]?:\s?              # [rank0]:
    | \[?\d{4}-\d\d-\d\d[T ,]\d\d:\d\d(?::\d\d)?(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?[\s|:-]*
    | \[?\d\d:\d\d:\d\d(?:[.,]\d{1,9})?\]?[\s|-]+
    | \[?[EWIF]\d{4}\ \d\d:\d\d:\d\d[^\]]{1,120}\]\s?   # E0724 19:33:34.5 1 api.py:702]
    | \[(?:ERROR|WARNING|INFO|E|W|I|stderr|stdout|transformers)\]\s?
    | (?:ERROR|WARNING|INFO|stderr|stdout)\s*\|\s*
    | [│|>❱]\s+
    )""",
    re.VERBOSE,
)

# An exception's own line, as Python prints it: its class, often with its module, and what it says.
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w{0,60}\.){0,8}[A-Za-z_]\w{0,60}(?:Error|Exception|Exit|Interrupt)(?::\s|:?$)")

# Code that IPython and rich show around a failing line: a number, then code; the failing line has an arrow.
_NUMBERED_CODE = re.compile(r"\s*(?:-{2,}>|❱|>)\s?\d{1,6}\b|\s*[│|]\s*(?:❱\s*)?\d{1,6}\s[│|]|\s*\d{1,6}\s{2,}\S")
_FILE_LINE = re.compile(r"""\s*(?:\[rank\d+\]:\s*)?File\s"[^"]{1,500}",\sline\s\d""")

# What is named as a secret, but for what cannot be one.
_VALUE = r"""["']?\s{0,5}[=:]\s{0,5}["']?)(?!None\b|True\b|False\b|<)[^\s"',;)&]{6,}"""
_SECRETS = (
    re.compile(r"(?i)\b(authorization:\s{0,5}\w{1,20}\s{1,5}|bearer\s{1,5})[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"(?i)\b((?:\w{0,30}api[_-]?key|access[_-]?token|auth[_-]?token|token|password|passwd|secret)" + _VALUE),
    re.compile(r"\b([A-Z0-9_]{0,30}(?:TOKEN|SECRET|PASSWORD)" + _VALUE),
    re.compile(r"\b(hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[bp]-|AKIA)[A-Za-z0-9_-]{8,}"),
    re.compile(r"(://)[^\s/:@]{1,100}:[^\s/@]{1,200}(?=@)"),
)


def without_terminal_codes(text: str) -> str:
    """The text without colors and other terminal sequences."""
    return _TERMINAL.sub("", text) if "\x1b" in text else text


def message(line: str) -> str:
    """A line without terminal sequences and without what loggers, torchrun and frames put in front of it or after it."""
    line = without_terminal_codes(line)
    for _ in range(5):
        found = _PREFIX.match(line)
        if found is None or found.end() == len(line):
            break
        line = line[found.end() :]
    return line.strip().removesuffix("│").rstrip()


def is_exception(message: str) -> bool:
    """Whether a message is the line of a traceback that names the exception."""
    return _EXCEPTION.match(message) is not None


def is_quoted_code(line: str, line_before: str) -> bool:
    """Whether a line of a traceback is source code: of any branch, not only of the one that failed."""
    return _FILE_LINE.match(message(line_before)) is not None or _NUMBERED_CODE.match(without_terminal_codes(line)) is not None


def without_secrets(text: str) -> str:
    """The text with tokens, passwords and keys replaced, but for what says which kind it was."""
    for secret in _SECRETS:
        text = secret.sub(lambda found: f"{found[1]}***", text)
    return text
