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

    llguidance takes such a schema, and the text would go on until its limit. Raises RecursionError for one that is nested too
    deeply.
    """
    # References whose documents end, as far as is known; and all that were met.
    ending: set[str] = set()
    met: dict[str, None] = {}

    def goes_on(one: Any) -> bool:
        if not isinstance(one, dict):
            return False
        reference = one.get("$ref")
        if isinstance(reference, str) and reference not in ending:
            met[reference] = None
            return True
        if any(goes_on(part) for part in _list(one, "allOf")):
            return True
        for choices in (_list(one, "anyOf"), _list(one, "oneOf")):
            if choices and all(goes_on(choice) for choice in choices):
                return True
        kinds = one.get("type")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        return bool(kinds) and all(goes_on_as(kind, one) for kind in kinds)

    def goes_on_as(kind: Any, one: dict[str, Any]) -> bool:
        """Of documents of one type."""
        if kind == "object":
            properties = one.get("properties")
            named = properties if isinstance(properties, dict) else {}
            others = None if "patternProperties" in one else one.get("additionalProperties")
            required = (name for name in _list(one, "required") if isinstance(name, str))
            return any(goes_on(named.get(name, others)) for name in required)
        if kind == "array" and isinstance(least := one.get("minItems"), int):
            first = _list(one, "prefixItems")
            return any(goes_on(item) for item in [*first[:least], *([one.get("items")] if least > len(first) else [])])
        return False

    # The least set of them that is closed: what is not in it leads to itself.
    while goes_on(schema):
        known = len(met)
        more = {reference for reference in list(met) if reference not in ending and not goes_on(_at(schema, reference))}
        if not more and len(met) == known:
            return True
        ending |= more
    return False


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
