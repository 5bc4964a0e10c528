"""What the tests of records share."""

from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import refused
from tests.conftest import Olc

__all__ = ["refused"]

FLOAT32 = ("--dtype", "float32", "--no-server")


@pytest.fixture
def model(tiny_model: Path) -> str:
    """The tiny model's folder, as `-m` takes it."""
    return str(tiny_model)


@pytest.fixture
def made(olc: Olc, model: str, tmp_path: Path) -> Any:
    """Run a command with --json, in float32 unless told otherwise; the file with what it printed."""

    def make(*arguments: str, name: str = "result.json", model: str = model, how: tuple[str, ...] = FLOAT32) -> Path:
        run = olc(*arguments, "-m", model, "--json", *how)
        assert run.code == 0, run.messages
        path = tmp_path / name
        path.write_bytes(run.out)
        return path

    return make
