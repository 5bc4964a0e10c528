"""The catalogue of known errors: what each looks like, why it happens, and what to do about it.

It is data, in the TOML files of `errors/`, one file a topic. `search` finds its entries in a text. Only patterns are read at
first, since parsing TOML is slow beside the rest of a start: an entry is parsed when it is found.
"""

import re
import tomllib
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal

Rank = Literal["cause", "general", "warning", "consequence"]

# Files of the catalogue, in the order of `olc explain --list`.
TOPICS = (
    "devices", "memory", "distributed", "weights", "config", "hub", "downloads", "tokenizer",
    "generation", "versions", "imports", "installation", "training", "packages", "general",
)  # fmt: skip

# An entry's header, and its patterns, one a line: all that has to be read of most entries.
_SECTION = re.compile(r"^\[([a-z][a-z0-9_]*)\]$", re.MULTILINE)
_PATTERNS = re.compile(r"^(source_)?patterns = '''\n?(.*?)\n?'''$", re.MULTILINE | re.DOTALL)

# How much text a `*` may stand for. Bounded, so that no text makes a search slow.
_WILDCARD = r".{0,160}?"


@dataclass(frozen=True)
class Pattern:
    """The fixed words of a library's message. `*` is anything on the same line; `^` in front and `$` at the end are its ends.

    Case counts. of_source: the pattern is of source code that a traceback quotes, not of a message. words: the longest part
    without `*`, which is looked for first: it should be rare in other text.
    """

    text: str
    of_source: bool = False
    words: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", max(self._parts, key=len))

    @property
    def _parts(self) -> list[str]:
        return self.text.removeprefix("^").removesuffix("$").split("*")

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Searches a line for it."""
        middle = _WILDCARD.join(map(re.escape, self._parts))
        return re.compile("^" * self.text.startswith("^") + middle + r"\s*$" * self.text.endswith("$"))

    @property
    def squeezed_words(self) -> str:
        """All fixed words without white space."""
        return "".join("".join(self._parts).split())

    @cached_property
    def squeezed(self) -> re.Pattern[str]:
        """Searches a text without white space for it."""
        return re.compile(_WILDCARD.join(re.escape("".join(part.split())) for part in self._parts))


@dataclass(frozen=True)
class KnownError:
    """One known error.

    code: a stable name. cause: why it happens. fix: what to change in a plain Python script or on the system; lines that begin
    with four spaces are code or commands to paste. olc: the command that avoids it, if one does. link: a public thread.
    example: a message as it is printed. (An olc error, which says itself what to do, has none of these.) patterns: in TOML one
    a line, those of source code in `source_patterns`.
    rank: "cause"; "general", which any package may have and which is told after those that are known more exactly; "warning",
    no failure by itself; "consequence", reported after the failure that matters.
    leads_to: codes of failures that follow from this one. hides: codes of vaguer entries that the same failure also prints.
    olc_codes: codes of olc's own errors with this meaning.
    """

    code: str
    topic: str
    title: str
    cause: str
    fix: str
    olc: str = ""
    link: str = ""
    example: str = ""
    patterns: tuple[Pattern, ...] = ()
    rank: Rank = "cause"
    leads_to: tuple[str, ...] = ()
    hides: tuple[str, ...] = ()
    olc_codes: tuple[str, ...] = ()


@cache
def patterns() -> tuple[tuple[str, Pattern], ...]:
    """All patterns with the codes of their entries, in the order of the files. Nothing else is parsed."""
    return tuple(
        (code, Pattern(text, of_source=bool(of_source)))
        for code, (_, section) in _sections().items()
        for of_source, lines in _PATTERNS.findall(section)
        for text in lines.splitlines()
    )


@cache
def known_error(code: str) -> KnownError:
    """The entry with a code. Raises KeyError if there is none."""
    topic, section = _sections()[code]
    (fields,) = tomllib.loads(section).values()
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    found = [Pattern(text) for text in values.pop("patterns", "").splitlines()]
    found += [Pattern(text, of_source=True) for text in values.pop("source_patterns", "").splitlines()]
    values["fix"] = values["fix"].removesuffix("\n")
    return KnownError(code=code, topic=topic, patterns=tuple(found), **values)


@cache
def known_errors() -> tuple[KnownError, ...]:
    """All entries, in the order of the files."""
    return tuple(map(known_error, _sections()))


def find(name: str) -> KnownError | None:
    """The entry with this code, or else the first with this code of an olc error."""
    if not name.isidentifier():
        return None
    return known_error(name) if name in _sections() else next(iter(with_olc_code(name)), None)


def with_olc_code(code: str) -> tuple[KnownError, ...]:
    """The entries that this code of an olc error may mean: "device" is several."""
    return tuple(entry for entry in known_errors() if code in entry.olc_codes)


@cache
def _sections() -> dict[str, tuple[str, str]]:
    """Topic and TOML of each entry, by its code."""
    folder = resources.files("openllama_cli.explain") / "errors"
    found: dict[str, tuple[str, str]] = {}
    for topic in TOPICS:
        parts = _SECTION.split((folder / f"{topic}.toml").read_text(encoding="utf-8"))[1:]
        found |= {code: (topic, f"[{code}]\n{section}") for code, section in zip(parts[::2], parts[1::2], strict=True)}
    return found
