"""What all tests of this folder share."""

import pytest


@pytest.fixture(autouse=True)
def threads(two_threads: None) -> None:
    """Two, though a worker of pytest-xdist has one: how work is divided is tested too."""
