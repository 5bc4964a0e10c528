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
    | \[?\d\d(?:\d\d)?/\d\d/\d\d(?:\d\d)?[ ,]{1,2}\d\d:\d\d:\d\d\]?[\s|:-]*
    | \[?[EWIF]\d{3,4}\ \d\d:\d\d:\d\d[^\]]{1,120}\]\s?   # E0724 19:33:34.5 1 api.py:702]
    | \(\w{1,60}\ (?:rank=\d{1,5},\ )?pid=\d{1,9}(?:,\ ip=[\d.]{7,15})?\)\s   # Ray
    | [A-Za-z][\w.-]{0,60}-\d{1,4}\s+\|\s               # docker compose
    | [A-Z][a-z]{2}\s+\d{1,2}\ \d\d:\d\d:\d\d\ [\w.-]{1,60}\ [\w./-]{1,60}(?:\[\d{1,9}\])?:\s   # journald
    | \[\d{1,5},\d{1,5}\]<std(?:err|out)>:\s?          # mpirun
    | \d{1,4}:\s                                       # srun --label
    | E\s{3}                                           # pytest
    | \[(?:ERROR|WARNING|INFO|E|W|I|stderr|stdout|transformers)\]\s?
    | (?:ERROR|WARNING|INFO|stderr|stdout)\s*\|\s*
    | [│|>❱]\s+
    )""",
    re.VERBOSE,
)

# An exception's own line, as Python prints it: its class, often with its module, and what it says.
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w{0,60}\.){0,8}[A-Za-z_]\w{0,60}(?:Error|Exception|Exit|Interrupt)(?::\s|:?$)")

# Code that IPython and rich show around a failing line: a number, then code; the failing line has an arrow.
_NUMBERED_CODE = re.compile(r"\s*(?:-{2,}>|❱|>)\s?\d{1,6}(?![\w.])|\s*[│|]\s*(?:❱\s*)?\d{1,6}\s[│|]|\s*\d{1,6}\s{2,}\S")
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


# What reads like an error though no exception is named, and what says that there was none.
_TROUBLE = r"""(?xi)
    error | exception | fail | fatal | traceback | abort | panic | crash | core\ dumped | killed | denied | refused | cannot
    | can't | could\ ?n[o']t | unable | invalid | not\ found | not\ recognized | no\ such | unsupported | not\ supported
    | undefined | illegal | corrupt | does\ ?n[o']t\ exist | timed\ out"""
_NO_TROUBLE = r"""(?xi)
    \b(?:no|0|zero|without(?:\ any)?)\ (?:\w{1,20}\ )?(?:errors?|exceptions?|failures?|failed)\b
    | \b(?:errors?|failures?|failed)\s?[:=]\s?0\b"""
_ESCAPE = re.compile(r"""\\(["'\\/nrt]|u[0-9a-fA-F]{4})""")
# What of JSON is around a string, in front of it and behind it.
_AROUND_STRING = re.compile(r"""^\s*[\[{]\s*(?:"[^"\n]{1,60}":\s*)?["']|(?:"[\]}",\s]{0,100}|'[\])}\s]{1,100})$""")
_ESCAPED = {"n": "\n", "r": "\n", "t": "\t"}


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


def reads_like_an_error(message: str) -> bool:
    """Whether a message says that something went wrong, in whatever words."""
    return re.search(_TROUBLE, re.sub(_NO_TROUBLE, "", message)) is not None


def unescaped(line: str) -> list[str]:
    """The lines that a string of JSON or Python holds in one line of text; nothing if it holds no error."""
    if not any(word in line for word in ("rror", "Traceback", "xception")):
        return []
    for _ in range(3):  # JSON within JSON.
        line = _ESCAPE.sub(_character, line)
        if "\\n" not in line and '\\"' not in line:
            break
    return _AROUND_STRING.sub("", without_terminal_codes(line)).split("\n")


def _character(escape: re.Match[str]) -> str:
    name = escape[1]
    return _ESCAPED.get(name) or (name if len(name) == 1 else chr(int(name[1:], 16)))


def is_quoted_code(line: str, line_before: str) -> bool:
    """Whether a line of a traceback is source code: of any branch, not only of the one that failed."""
    return _FILE_LINE.match(message(line_before)) is not None or _NUMBERED_CODE.match(without_terminal_codes(line)) is not None


def without_secrets(text: str) -> str:
    """The text with tokens, passwords and keys replaced, but for what says which kind it was."""
    for secret in _SECRETS:
        text = secret.sub(lambda found: f"{found[1]}***", text)
    return text
