"""Options that cannot be used are refused with the name of their flag."""

from typing import Any

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.sgd.config import SgdConfig, parse_sizes


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"sizes": (64,)}, "--sizes"),
        ({"sizes": (64, 0, 10)}, "--sizes"),
        ({"sizes": (64, 10**9, 10)}, "--sizes"),
        ({"epochs": 0}, "--epochs"),
        ({"mini_batch_size": 0}, "--mini-batch-size"),
        ({"eta": 0.0}, "--eta"),
        ({"eta": float("nan")}, "--eta"),
        ({"eta": float("inf")}, "--eta"),
        ({"cost": "hinge"}, "--cost"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_a_wrong_value_names_its_flag(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        SgdConfig(**settings)
    assert flag in caught.value.cause
    assert caught.value.remedy


def test_sizes_are_read_from_text() -> None:
    assert parse_sizes("784, 100,10") == (784, 100, 10)
    for text in ("", "64,", "64;10", "64,-3,10", "64,3.5,10", "٣,10", "9" * 5000):
        with pytest.raises(UsageError, match="--sizes"):
            parse_sizes(text)


def test_a_network_that_does_not_fit_is_told_which_would() -> None:
    config = SgdConfig(sizes=(64, 30, 20, 10))
    config.fit(64, 100, "digits")
    with pytest.raises(UsageError) as caught:
        config.fit(784, 100, "digits")
    assert caught.value.remedy == "give --sizes 784,30,20,10"
    with pytest.raises(UsageError, match="--mini-batch-size 10 is more than the 9 images"):
        config.fit(64, 9, "digits")


def test_without_a_seed_each_run_has_its_own() -> None:
    assert SgdConfig().seed != SgdConfig().seed
