"""What can be said of a JSON schema without compiling it."""

from collections.abc import Iterator, Mapping
from typing import Any


def subschemas(schema: Any, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects in it, each with where it is, as a JSON pointer."""
    if isinstance(schema, dict):
        yield path, schema
        for key, value in schema.items():
            yield from subschemas(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for place, value in enumerate(schema):
            yield from subschemas(value, f"{path}/{place}")


def endless(schema: Mapping[str, Any]) -> bool:
    """Whether every document of a schema contains another one of the same kind, so that none can be written to its end.

    llguidance takes such a schema, and the text would go on until its limit.
    """
    ending: set[str] = set()

    def goes_on(one: Any, opened: frozenset[str]) -> bool:
        if not isinstance(one, dict):
            return False
        reference = one.get("$ref")
        if isinstance(reference, str) and reference not in ending:
            if reference in opened or goes_on(_at(schema, reference), opened | {reference}):
                return True
            ending.add(reference)
        if any(goes_on(part, opened) for part in _list(one, "allOf")):
            return True
        for choices in (_list(one, "anyOf"), _list(one, "oneOf")):
            if choices and all(goes_on(choice, opened) for choice in choices):
                return True
        if one.get("type") == "object":
            properties = one.get("properties")
            required = [name for name in _list(one, "required") if isinstance(name, str)]
            return isinstance(properties, dict) and any(goes_on(properties.get(name), opened) for name in required)
        if one.get("type") == "array" and isinstance(least := one.get("minItems"), int):
            first = _list(one, "prefixItems")
            return any(goes_on(item, opened) for item in [*first[:least], *([one.get("items")] if least > len(first) else [])])
        return False

    return goes_on(schema, frozenset())


def _list(schema: Mapping[str, Any], name: str) -> list[Any]:
    value = schema.get(name)
    return value if isinstance(value, list) else []


def _at(schema: Any, reference: str) -> Any:
    """What a reference within the schema points to; None for another one."""
    if not reference.startswith("#"):
        return None
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        schema = schema.get(key) if isinstance(schema, dict) else None
    return schema
