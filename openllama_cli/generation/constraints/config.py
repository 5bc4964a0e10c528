"""What a completion has to match, as it was given: checked before a model is looked for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from openllama_cli.errors import UsageError
from openllama_cli.generation.constraints import grammar, library
from openllama_cli.generation.constraints.rules import endless

Kind = Literal["regex", "json_schema", "grammar"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Characters. Far more than any of them needs; a server reads those of strangers.
_LONGEST = 1_000_000


@dataclass(frozen=True)
class Constraint:
    """kind: what the source is: a regular expression in the syntax of Rust's `regex` crate without look-arounds and back
    references, a JSON schema (draft 2020-12 and older), or a grammar in llguidance's dialect of Lark. source: its text.

    Raises UsageError naming the flag; its codes are constraint_invalid (what is no regular expression, schema or grammar, or
    has what llguidance does not do), constraint_unsatisfiable (no text matches) and constraint_package.
    """

    kind: Kind
    source: str

    def __post_init__(self) -> None:
        _check(self.kind, self.source)

    @property
    def sha256(self) -> str:
        """Of the source in UTF-8, in hexadecimal."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def compiled(self) -> str:
        """The source as llguidance takes it."""
        return grammar.of(self.kind, self.source)

    def matches(self, text: str) -> bool:
        """Whether a text is a complete match."""
        one = _parser(self.compiled).deep_copy()
        data = text.encode()
        return bool(one.try_consume_tokens(list(data)) == len(data) and one.is_accepting())

    def begins(self, text: str) -> bool:
        """Whether a text is the beginning of a match, or one."""
        data = text.encode()
        return bool(_parser(self.compiled).deep_copy().try_consume_tokens(list(data)) == len(data))


def told(constraint: Constraint | None, text: str) -> dict[str, dict[str, bool]]:
    """What JSON says of a finished text: whether it is a complete match; empty where nothing was asked for."""
    return {} if constraint is None else {"constraint": {"complete": constraint.matches(text)}}


def as_source(name: str, value: Any) -> str | None:
    """The source that an option's value is: a text, or for a JSON schema also an object; None for neither.

    Raises UsageError for an object that is nested too deeply to be written.
    """
    if isinstance(value, str):
        return value
    if name == "json_schema" and isinstance(value, (Mapping, bool)):
        # In the order in which properties are given: that is the order in which they are written.
        try:
            return json.dumps(value, ensure_ascii=False)
        except RecursionError:
            grammar.too_deep()
        except (TypeError, ValueError):  # What JSON does not have; itself within itself.
            return None
    return None


@library.remembered(256)
def _check(kind: Kind, source: str) -> None:
    if len(source) > _LONGEST:
        cause = f"{grammar.FLAGS[kind]} has {len(source):,} characters"
        raise UsageError(cause, f"give {_LONGEST:,} at most", code="constraint_invalid")
    one = _parser(grammar.of(kind, source))
    problem = library.failure(one)
    if problem is not None:
        grammar.refuse(kind, source, problem)
    one = one.deep_copy()
    one.compute_bitmask()
    if library.failure(one) or (one.is_stopped() and not one.is_accepting()):
        raise grammar.unsatisfiable(kind, source, "no text matches it")
    if kind == "grammar" and endless(source):
        raise grammar.unsatisfiable(kind, source, "its rules go on without end")


@library.remembered(64)
def _parser(compiled: str) -> Any:
    """At the start of a grammar, over bytes; to be copied before it goes on."""
    return library.parser(library.byte_trie(), compiled)
