"""The garbage collector while torch and transformers are imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import pauses

NAMES = [
    name for name, value in vars(pauses).items() if getattr(value, "__module__", "") == pauses.__name__ and name[0].islower()
]


@pytest.mark.parametrize("name", NAMES)
def test_the_collector_pauses(name: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", pauses.__name__, name], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr


def test_all_of_it_is_tested() -> None:
    assert len(NAMES) == 6
