"""The catalogue of known errors: what each looks like, why it happens, and what to do about it.

It is data, in the TOML files of `errors/`, one file a topic. `search` finds its entries in a text.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal

Rank = Literal["cause", "warning", "consequence"]

# Files of the catalogue, in the order of `olc explain --list`.
TOPICS = ("devices", "memory", "distributed", "weights", "hub", "tokenizer", "versions", "generation")

# How much text a `*` may stand for. Bounded, so that no text makes a search slow.
_WILDCARD = r".{0,160}?"


@dataclass(frozen=True)
class Pattern:
    """The fixed words of a library's message. `*` is anything on the same line; `^` in front and `$` at the end are its ends.

    Case counts. of_source: the pattern is of source code that a traceback quotes, not of a message.
    """

    text: str
    of_source: bool = False

    @cached_property
    def words(self) -> str:
        """The longest part without `*`, which is looked for first: it should be rare in other text."""
        return max(self._parts, key=len)

    @property
    def _parts(self) -> list[str]:
        return self.text.removeprefix("^").removesuffix("$").split("*")

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Searches a line for it."""
        middle = _WILDCARD.join(map(re.escape, self._parts))
        return re.compile("^" * self.text.startswith("^") + middle + r"\s*$" * self.text.endswith("$"))


@dataclass(frozen=True)
class KnownError:
    """One known error.

    code: a stable name. cause: why it happens. fix: what to change in a plain Python script or on the system. olc: the command
    that avoids it. link: a public thread. example: a message as it is printed. (An olc error, which says itself what to do, has
    none of these.) patterns: in TOML those of source code are in `source_patterns`.
    rank: "cause"; "warning" is no failure by itself; "consequence" is reported after the failure that matters.
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
def known_errors() -> tuple[KnownError, ...]:
    """All entries, in the order of the files."""
    folder = resources.files("openllama_cli.explain") / "errors"
    entries = []
    for topic in TOPICS:
        content = tomllib.loads((folder / f"{topic}.toml").read_text(encoding="utf-8"))
        entries += [_entry(topic, code, fields) for code, fields in content.items()]
    return tuple(entries)


def find(name: str) -> KnownError | None:
    """The entry with this code, or else the first with this code of an olc error."""
    by_code = (entry for entry in known_errors() if entry.code == name)
    return next(by_code, None) or next(iter(with_olc_code(name)), None)


def with_olc_code(code: str) -> tuple[KnownError, ...]:
    """The entries that this code of an olc error may mean: "device" is several."""
    return tuple(entry for entry in known_errors() if code in entry.olc_codes)


def _entry(topic: str, code: str, fields: dict[str, Any]) -> KnownError:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    patterns = [Pattern(text) for text in values.pop("patterns")]
    patterns += [Pattern(text, of_source=True) for text in values.pop("source_patterns", ())]
    return KnownError(code=code, topic=topic, patterns=tuple(patterns), **values)
