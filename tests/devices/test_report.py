"""The whole examination, behind a probe: what is asked of the machine, and the one JSON document."""

import json
from typing import Any

import pytest

from openllama_cli.devices import report as reporting
from openllama_cli.devices.machine.facts import Facts, TorchBuild
from openllama_cli.devices.machine.probe import MachineProbe
from openllama_cli.devices.report import document, examine
from openllama_cli.errors import ModelError
from tests.support.machines import CPU_BUILD, FakeProbe, facts, gpu, measurement, mps
from tests.support.progress import Recorder


def as_json(probe: Any, **options: Any) -> dict[str, Any]:
    """The document after a trip through JSON, where NaN is not allowed."""
    found: dict[str, Any] = json.loads(json.dumps(document(examine(probe, **options)), allow_nan=False))
    return found


@pytest.mark.parametrize(
    ("machine", "device", "measured"),
    [
        (facts(gpu(0, free=11), gpu(1, free=10)), "auto", ["cuda:0", "cuda:1", "cpu"]),
        (facts(gpu(0, free=11), gpu(1, free=10)), "cuda", ["cuda:0"]),
        (facts(gpu(0, free=11), gpu(1, free=10)), "cuda:1", ["cuda:1"]),
        (facts(gpu(0, free=11)), "cpu", ["cpu"]),
        (facts(mps()), "auto", ["mps", "cpu"]),
        (facts(), "cuda", []),
        (facts(torch=TorchBuild(None, trouble="broken")), "auto", []),
    ],
)
def test_the_devices_that_are_measured(machine: Facts, device: str, measured: list[str]) -> None:
    probe = FakeProbe(machine)
    found = examine(probe, device=device)
    assert probe.measured == measured == list(found.facts.measured)


def test_nothing_is_measured_when_it_is_quick_or_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = FakeProbe(facts(gpu(free=11)))
    assert examine(probe, measure=False).facts.measured == {}
    monkeypatch.setattr(reporting, "MEASURING_S", -1)
    assert examine(probe).facts.measured == {}
    assert probe.measured == []


def test_the_document_of_two_gpus_and_a_model() -> None:
    probe = FakeProbe(facts(gpu(0, free=11), gpu(1, free=10)), {"cuda:0": measurement(900.0)})
    found = as_json(probe, model="13b")
    assert [device["device"] for device in found["devices"]] == ["cpu", "cuda:0", "cuda:1"]
    assert found["devices"][1]["bandwidth_gb_per_s"] == 900.0
    assert found["devices"][1]["dtypes"]["float16"]["ok"] is True
    model = found["model"]
    assert list(model["dtypes"]) == ["float32", "float16", "bfloat16", "int8", "int4"]
    assert [part["module"] for part in model["placement"]][:2] == ["model.embed_tokens", "model.layers.0"]
    assert sum(part["module"].startswith("model.layers.") for part in model["placement"]) == 40
    assert sum(part["bytes"] for part in model["placement"]) == model["best"]["weights_bytes"]
    assert model["command"].startswith("olc complete -m 13b ")
    assert model["first"] == "olc models pull 13b"
    for dtype in model["dtypes"].values():
        assert dtype.keys() >= {"weights_bytes", "cache_bytes_per_token", "cache_bytes_per_row", "devices", "verdict", "rows"}
    assert all(problem.keys() == {"severity", "code", "message", "fix"} for problem in found["problems"])


def test_the_document_without_a_model_a_measurement_a_device_or_torch() -> None:
    found = as_json(FakeProbe(facts()), measure=False)
    assert (found["model"], found["devices"][0]["dtypes"]) == (None, None)
    found = as_json(FakeProbe(facts(torch=CPU_BUILD)), model="3b", device="cuda")
    assert found["problems"][0]["code"] == "device_missing"
    assert found["model"]["best"]["devices"][0]["device"] == "cpu", "the plan is for what is there"
    found = as_json(FakeProbe(facts(torch=TorchBuild(None, trouble="ImportError: libcudart.so.12"))), model="7b")
    assert (found["model"], found["problems"][0]["code"]) == (None, "torch_broken")
    assert "libcudart" in found["problems"][0]["message"]


def test_a_wrong_model_is_said_before_the_machine_is_looked_at_and_progress_ends_when_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakeProbe, "facts", lambda _: 1 / 0)
    with pytest.raises(ModelError):
        examine(FakeProbe(facts()), model="./no/such/folder")
    progress = Recorder()
    with pytest.raises(ZeroDivisionError):
        examine(FakeProbe(facts()), progress=progress)
    assert (progress.labels, progress.finished) == (["examining this machine"], 1)


def test_this_machine_is_looked_at_without_an_error() -> None:
    found = as_json(MachineProbe(), measure=False, model="demo")
    assert found["versions"]["torch"]
    assert found["backends"].keys() == {"nccl", "gloo", "mpi", "ucc", "xccl"}
    assert all(check["ok"] for check in found["checks"])
    assert found["model"]["best"]["verdict"] == "fits"
