"""What `--model`, `--device` and `--dtype` may be."""

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.models.spec import ModelSpec


def test_what_torch_would_stumble_over_is_wrong_usage() -> None:
    for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:15", "mps"):
        assert ModelSpec(device=device).device == device
    for device in ("", "CPU", "cuda:", "cuda:-1", "cuda:200", "cuda:99999999999", "cuda:\u0661", "mps:0", "cpu\n"):
        with pytest.raises(UsageError, match="--device"):
            ModelSpec(device=device)
    with pytest.raises(UsageError, match="--model"):
        ModelSpec(model=" ")
    with pytest.raises(UsageError, match="--dtype int4"):
        ModelSpec(dtype="int4")  # type: ignore[arg-type]
