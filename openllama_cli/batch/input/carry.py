"""Fields of a row that olc has no use for, and that go through to OUTPUT as they are (`--carry`)."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from openllama_cli.errors import UsageError

# The fields of OUTPUT that are olc's own: an input's field of the same name is written with a prefix.
OWN_FIELDS = frozenset({"custom_id", "index", "prompt", "text", "finish_reason", "usage", "error"})
OWN_FIELDS |= {"logprobs", "choices", "samples", "score", "annotations"}
PREFIX = "input_"


@dataclass(frozen=True)
class Carry:
    """Which fields are carried. others: all that olc has no use for. names: these, which are then never options or an id."""

    others: bool = True
    names: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Carry":
        """The value of --carry: all, none, or names separated by commas (all may be one of them). Raises UsageError."""
        [names] = csv.reader([text]) if text and not {"\n", "\r"} & set(text) else [[]]
        if not names or any(not name.strip() for name in names) or ("none" in names and len(names) > 1):
            raise UsageError(f"--carry {text!r} is not a choice of fields", "give all, none, or names: --carry country,year")
        return cls("all" in names, frozenset(name.strip() for name in names) - {"all", "none"})

    def __str__(self) -> str:
        return ",".join((["all"] if self.others else []) + sorted(self.names)) or "none"

    def of(self, fields: Mapping[str, Any], used: Iterable[str]) -> dict[str, Any]:
        """The fields to carry, by their names in OUTPUT. used: those that olc has a use for."""
        used = set(used)
        # A prompt and an id that olc uses are in OUTPUT anyway.
        there = used & {"prompt", "custom_id"}
        names = [name for name in fields if name not in there and (name in self.names or (self.others and name not in used))]
        return {name_in_output(name, fields): fields[name] for name in names}


def name_in_output(name: str, fields: Iterable[str]) -> str:
    """What a carried field is called in OUTPUT. fields: all of the row's."""
    given = name
    while name in OWN_FIELDS or (name != given and name in fields):
        name = PREFIX + name
    return name
