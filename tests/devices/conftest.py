"""What the tests of planning share."""

import functools
import json
from collections.abc import Iterator

import pytest

from openllama_cli.devices.planning import memory, placement


@pytest.fixture(autouse=True, scope="session")
def _each_skeleton_is_built_once() -> Iterator[None]:
    """It is most of what a plan takes."""
    built = functools.cache(lambda config, dtype: placement.skeleton(json.loads(config), dtype))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "skeleton", lambda config, dtype: built(json.dumps(config), dtype))
        yield
