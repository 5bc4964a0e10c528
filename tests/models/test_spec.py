"""What `--model`, `--device` and `--dtype` may be."""

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.models.spec import ModelSpec


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15", "mps"])
def test_devices_that_may_be(device: str) -> None:
    assert ModelSpec(device=device).device == device


@pytest.mark.parametrize(
    "device", ["", "CPU", "cuda:", "cuda:-1", "cuda:200", "cuda:99999999999", "cuda:\u0661", "mps:0", "cpu\n"]
)
def test_devices_that_torch_would_stumble_over_are_wrong_usage(device: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        ModelSpec(device=device)


def test_an_empty_model_and_an_unknown_dtype_are_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--model"):
        ModelSpec(model=" ")
    with pytest.raises(UsageError, match="--dtype int4"):
        ModelSpec(dtype="int4")  # type: ignore[arg-type]
