"""The documents of JSON lines. Lists of alternatives, most of a line that has them, stay text until one is asked for.

Such a list is checked by a regular expression, which takes less than half as long as converting it, and only where two rows
part is anything of it needed. A document is the same either way, and so is what is none: what is not written as `json.dumps`
writes it is read by `json`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

# JSON's, with numbers of a length that any float or int has. First what nearly all are.
_STRING = r'"[^"\\\x00-\x1f]*+(?:"|(?:\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})[^"\\\x00-\x1f]*+)++")'
_NUMBER = r"(?:-[0-9]\.[0-9]++(?=[,}])|-?(?:0|[1-9][0-9]{0,30}+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]{1,3}+)?+)"
_PAIR = rf"{_STRING}: ?{_NUMBER}"
_OBJECT = rf"\{{(?:{_PAIR}(?:, ?{_PAIR})*+)?+\}}"
_OBJECTS = re.compile(f"{_OBJECT}|null")
_LIST = re.compile(rf'"top_logprobs": ?(\[(?:{_OBJECT}|null)(?:, ?(?:{_OBJECT}|null))*+\])')
# What stands there instead; a line that has NaN elsewhere is read as a whole.
_INSTEAD = '"top_logprobs": NaN'


class Alternatives(Sequence[Any]):
    """A list of objects in a document. text: its JSON, of which no more is converted than is asked for."""

    __slots__ = ("_elements", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._elements: list[str] | None = None

    def __len__(self) -> int:
        if self._elements is None:
            self._elements = _OBJECTS.findall(self.text)
        return len(self._elements)

    def __getitem__(self, place: Any) -> Any:
        """place: an index, no slice."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        assert self._elements is not None
        return _WHOLE.decode(self._elements[place])


# JSON has no NaN and no infinity: where a file has them, nothing is known.
_WHOLE = json.JSONDecoder(parse_constant=lambda name: None)


class Documents:
    """Reads lines one after the other."""

    def __init__(self) -> None:
        self._left: Iterator[Alternatives] = iter(())
        self._decoder = json.JSONDecoder(parse_constant=lambda name: next(self._left))

    def of(self, line: bytes) -> Any:
        """The document of a line, with an optional byte order mark. A list `top_logprobs` in it may be `Alternatives`.

        Raises ValueError or RecursionError where it is not JSON.
        """
        text = line.decode().removeprefix("\ufeff")
        parts = _LIST.split(text)
        rest = _INSTEAD.join(parts[::2])
        if len(parts) == 1 or rest.count("NaN") != len(parts) // 2 or "Infinity" in rest:
            return _WHOLE.decode(text)
        self._left = map(Alternatives, parts[1::2])
        return self._decoder.decode(rest)


def whole(line: bytes) -> Any:
    """The document of a line as `json` reads it. Raises ValueError or RecursionError where it is not JSON."""
    return _WHOLE.decode(line.decode().removeprefix("\ufeff"))
