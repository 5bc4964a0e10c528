"""Documents held against the JSON Schemas that ship with olc: the keywords of draft 2020-12 that these use, and no others.

The package jsonschema does the same for any schema; a record of a long text it would read for seconds, and it is installed for
the tests alone, which compare the two.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from openllama_cli.records.schemas import schema

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_NAMES = {"array": "a list", "object": "an object", "integer": "a whole number", "null": "null"}


class MisfitError(ValueError):
    """A document that is not as its schema says. unknown: it has a field that the schema does not know."""

    def __init__(self, why: str, *, unknown: bool = False) -> None:
        super().__init__(why)
        self.unknown = unknown


@cache
def _schema(name: str, older: bool = False) -> Any:
    found = json.loads(schema(name))
    if older:
        for one in found["properties"]["options"].get("anyOf", ()):
            del one["required"]
    return found


def validate(document: Any, name: str, *, older: bool = False) -> None:
    """Raise MisfitError for the first thing in a document that is not as the schema of this name says.

    older: whether an earlier olc made it, which did not have all options: those that are missing have their defaults.
    """
    part = _schema(name, older)
    _validate(document, part, part, ())


def _validate(value: Any, part: Mapping[str, Any], root: Any, path: tuple[str, ...]) -> None:
    if "$ref" in part:
        part, root = _resolved(part["$ref"], root)
        _validate(value, part, root, path)
        return
    if "anyOf" in part:
        _validate(value, *_closest(value, part["anyOf"], root), path)
        return
    if "not" in part and _fits(value, part["not"], root):
        raise MisfitError(f"{_name(path)} is not as it has to be")
    if ("const" in part and not _same(value, part["const"])) or (
        "enum" in part and not any(_same(value, one) for one in part["enum"])
    ):
        raise MisfitError(f"{_name(path)} is unknown")
    if "type" in part:
        names = [part["type"]] if isinstance(part["type"], str) else part["type"]
        if type(value) not in [one for name in names for one in _TYPES[name]]:
            raise MisfitError(f"{_name(path)} is not {' or '.join(_NAMES.get(name, f'a {name}') for name in names)}")
    if "minimum" in part and isinstance(value, int | float) and not value >= part["minimum"]:
        raise MisfitError(f"{_name(path)} is below {part['minimum']}")
    if "maximum" in part and isinstance(value, int | float) and not value <= part["maximum"]:
        raise MisfitError(f"{_name(path)} is above {part['maximum']}")
    if "pattern" in part and isinstance(value, str) and not re.search(part["pattern"], value):
        raise MisfitError(f"{_name(path)} is not of its form")
    if isinstance(value, list):
        _validate_list(value, part, root, path)
    elif isinstance(value, dict):
        _validate_object(value, part, root, path)


def _validate_list(value: list[Any], part: Mapping[str, Any], root: Any, path: tuple[str, ...]) -> None:
    if not part.get("minItems", 0) <= len(value) <= part.get("maxItems", len(value)):
        raise MisfitError(f"{_name(path)} has {len(value)} entries")
    first = part.get("prefixItems", [])
    for place, (one, its) in enumerate(zip(value, first, strict=False)):
        _validate(one, its, root, (*path, str(place)))
    items = part.get("items")
    if items is None:
        return
    if (kind := items.get("type")) and items.keys() <= {"type", "description"}:
        # Of thousands of ids and numbers all at once.
        allowed = {one for name in ([kind] if isinstance(kind, str) else kind) for one in _TYPES[name]}
        if set(map(type, value)) <= allowed:
            return
    for place, one in enumerate(value[len(first) :], len(first)):
        _validate(one, items, root, (*path, str(place)))


def _validate_object(value: dict[str, Any], part: Mapping[str, Any], root: Any, path: tuple[str, ...]) -> None:
    known, others = part.get("properties", {}), part.get("additionalProperties", True)
    for name in part.get("required", ()):
        if name not in value:
            raise MisfitError(f"{_name((*path, name))} is missing")
    for name, one in value.items():
        if name in known:
            _validate(one, known[name], root, (*path, name))
        elif others is False:
            raise MisfitError(f"{_name((*path, name))} is unknown to this olc", unknown=True)
        elif others is not True:
            _validate(one, others, root, (*path, name))


def _closest(value: Any, parts: list[Mapping[str, Any]], root: Any) -> tuple[Mapping[str, Any], Any]:
    """The one of several schemas that a value fits, or else the one with most of its fields, and what they refer to."""
    for one in parts:
        if _fits(value, one, root):
            return one, root
    resolved = [_resolved(one["$ref"], root) if "$ref" in one else (one, root) for one in parts]
    fields = set(value) if isinstance(value, dict) else set()
    return max(resolved, key=lambda one: len(fields & set(one[0].get("properties", {}))))


def _fits(value: Any, part: Mapping[str, Any], root: Any) -> bool:
    try:
        _validate(value, part, root, ())
    except MisfitError:
        return False
    return True


def _resolved(reference: str, root: Any) -> tuple[Mapping[str, Any], Any]:
    """What a reference within the schemas means: "record.json", "#/$defs/place", "record.json#/properties/model"."""
    file, _, pointer = reference.partition("#")
    root = _schema(file.removesuffix(".json")) if file else root
    found = root
    for name in filter(None, pointer.split("/")):
        found = found[name]
    return found, root


def _same(value: Any, other: Any) -> bool:
    return type(value) is type(other) and bool(value == other)


def _name(path: tuple[str, ...]) -> str:
    return ".".join(path) or "it"
