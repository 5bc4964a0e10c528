"""One server of a tiny model for all tests of a worker."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serve.servers import Served, running


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


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path, as Unix sockets need it, in place of /run/user/UID."""
    with tempfile.TemporaryDirectory(prefix="olc-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
