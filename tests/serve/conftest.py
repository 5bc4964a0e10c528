"""One server of a tiny model for all tests of a worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import Served, running


@pytest.fixture(scope="session")
def served(tiny_model: Path) -> Iterator[Served]:
    """A server that knows no key; seven rows at a time, so that many requests wait."""
    with running(tiny_model, max_rows=7) as server:
        yield server


@pytest.fixture(scope="session")
def with_bos(tiny_model: Path) -> Iterator[Served]:
    """One with --always-bos."""
    with running(tiny_model, always_bos=True) as server:
        yield server
