"""The smoke test finds this processor right, and broken ones wrong."""

import math
import time
from typing import Any

import pytest
import torch

from openllama_cli.devices.machine import measure as measuring
from openllama_cli.devices.machine.measure import DTYPES, bandwidth, measure
from openllama_cli.devices.machine.probe import MachineProbe
from openllama_cli.system.progress import NullProgress

SMALL = 30_000_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of a few thousand numbers."""
    monkeypatch.setattr(measuring, "HIDDEN", 96)
    monkeypatch.setattr(measuring, "INTERMEDIATE", 288)


@pytest.mark.usefixtures("small")
def test_every_type_is_right_on_this_processor_and_has_speeds() -> None:
    found = MachineProbe().measure("cpu", SMALL, NullProgress(), math.inf)
    assert list(found.dtypes) == list(DTYPES)
    for result in found.dtypes.values():
        assert result.ok
        assert result.finite
        speeds = (result.prefill_gflop_per_s, result.decode_gb_per_s, result.decode_plain_gb_per_s, found.bandwidth_gb_per_s)
        assert all(speed is not None and speed > 0 for speed in speeds)
    errors = [found.dtypes[name].relative_error or 0 for name in DTYPES]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert torch.backends.mkldnn.enabled, "it is on again"


@pytest.mark.alone
def test_bandwidth_counts_every_byte_once() -> None:
    """A read of the same bytes, timed here, is not much faster: nothing is counted twice."""
    numbers = torch.ones(20_000_000)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        torch.amax(numbers)
        seconds.append(time.perf_counter() - started)
    read = numbers.nbytes / min(seconds) / 1e9
    assert read / 4 < bandwidth("cpu", numbers.nbytes) < read * 4


def _one_nan_in_decode(left: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
    if left.shape[0] == 1:
        product[0, 7] = math.nan
    return product


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("broken", "wrong", "finite", "error"),
    [
        (lambda x, y: y * (4 / 3 if x.dtype == torch.float16 else 1), {"float16"}, True, pytest.approx(1 / 3, rel=1e-2)),
        (lambda x, y: y * (-1 if len(x) == 1 else 1), set(DTYPES), True, pytest.approx(2, rel=1e-2)),
        (_one_nan_in_decode, set(DTYPES), False, None),
    ],
)
def test_a_broken_kernel_is_found(
    monkeypatch: pytest.MonkeyPatch, broken: Any, wrong: set[str], finite: bool, error: Any
) -> None:
    plain = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda left, right: broken(left, plain(left, right)))
    found = measure("cpu", free_bytes=SMALL).dtypes
    assert {name for name, result in found.items() if not result.ok} == wrong
    for name in wrong:
        assert (found[name].finite, found[name].relative_error) == (finite, error)


@pytest.mark.usefixtures("small")
def test_what_torch_refuses_is_the_result() -> None:
    """The meta device computes shapes and no numbers."""
    found = measure("meta", free_bytes=SMALL)
    assert not any(result.ok for result in found.dtypes.values())
    assert all(result.error for result in found.dtypes.values())


@pytest.mark.usefixtures("small")
def test_a_slow_type_is_timed_with_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {result.prefill_rows for result in measure("cpu", free_bytes=SMALL).dtypes.values()} == {64}
    monkeypatch.setattr(measuring, "_SLOW_S", 1e-9)
    assert {result.prefill_rows for result in measure("cpu", free_bytes=SMALL).dtypes.values()} == {8}


def test_nothing_begins_after_the_deadline_and_a_type_that_is_under_way_is_cut_short() -> None:
    """With every size as it is: what remains is one run of everything."""
    assert measure("cpu", free_bytes=SMALL, deadline=time.perf_counter() - 1).dtypes == {}
    found = measuring._test("cpu", "bfloat16", SMALL, deadline=0)
    assert found.ok
    assert found.prefill_rows == 8
