"""Every test of arithmetic runs with the kernels of each tier that this processor can run."""

import functools

import pytest

from openllama_cli.native import library
from openllama_cli.native.sources import Tier

_open = functools.cache(library._open)


@pytest.fixture(params=library.runnable(), ids=lambda tier: tier.name)
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tier:
    """The one whose kernels are called."""
    opened = _open(request.param)
    if opened is None:
        pytest.skip(f"the kernels for {request.param.label} are not compiled")
    monkeypatch.setattr(library, "library", lambda: opened)
    return opened.tier
