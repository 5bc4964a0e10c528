"""What the tests of planning share."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest

from openllama_cli.devices.planning import memory, placement


@cache
def _skeleton(config: str, dtype: str) -> Any:
    return placement.skeleton(json.loads(config), dtype)


def skeleton(config: Mapping[str, Any], dtype: str) -> Any:
    """`placement.skeleton`, each model built once: most of what a plan takes."""
    return _skeleton(json.dumps(config), dtype)


@pytest.fixture(autouse=True, scope="session")
def _each_skeleton_is_built_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "skeleton", skeleton)
        yield
