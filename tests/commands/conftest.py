"""What the tests of the commands share."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Olc, Result


@pytest.fixture
def model(tiny_model: Path) -> str:
    """The tiny model's folder, as `-m` takes it."""
    return str(tiny_model)


@pytest.fixture
def refused(olc: Olc) -> Olc:
    """Run olc, which must end with `code` (2 unless given, for wrong usage), two lines on stderr, nothing on stdout."""

    def run(*arguments: str, code: int = 2, **options: Any) -> Result:
        result = olc(*arguments, **options)
        assert (result.code, result.out) == (code, b""), result.messages
        assert re.fullmatch(r"error: .*\n  fix: .*\n", result.messages)
        return result

    return run
