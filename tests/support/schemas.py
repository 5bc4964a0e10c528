"""Documents held against the JSON Schemas that ship with olc."""

import json
from functools import cache
from typing import Any

import jsonschema
from referencing import Registry, Resource

from openllama_cli.records.schemas import names, schema


@cache
def _validator(name: str) -> Any:
    schemas = {f"{one}.json": Resource.from_contents(json.loads(schema(one))) for one in names()}
    return jsonschema.Draft202012Validator(json.loads(schema(name)), registry=Registry().with_resources(schemas.items()))


def valid(document: Any, name: str) -> None:
    """Raise ValidationError for a document that is not as the schema says."""
    _validator(name).validate(document)
