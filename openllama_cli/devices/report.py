"""`olc devices` without its terminal: examine, measure, plan, diagnose; and the JSON document of the result."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from openllama_cli.devices.advice import diagnose, has_device
from openllama_cli.devices.machine.facts import Facts, Measurement, Problem
from openllama_cli.devices.machine.probe import MachineProbe
from openllama_cli.devices.planning.memory import DtypePlan, free_memory, main_device
from openllama_cli.devices.planning.placement import look_up
from openllama_cli.devices.planning.recommend import ModelPlan, plan_model
from openllama_cli.system.progress import NullProgress, Progress, shown

# For all devices together; no measurement starts after it.
MEASURING_S = 10.0


@dataclass(frozen=True)
class Report:
    """What was found. plan: of the model that was named, else None."""

    facts: Facts
    plan: ModelPlan | None
    problems: tuple[Problem, ...]


def examine(
    probe: MachineProbe,
    *,
    model: str | None = None,
    device: str = "auto",
    measure: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Examine the machine behind a probe.

    model: plan this one too. device: what `--device` says; "auto" measures every device. Raises ModelError or HubError for a
    model that is missing or broken.
    """
    progress = progress or NullProgress()
    plan = None
    known = look_up(model) if model is not None else None  # Before torch is imported: a wrong name fails at once.
    with shown(progress, "examining this machine", None):
        facts = probe.facts()
    usable = facts.torch.version is not None
    if measure and usable:
        facts = _measured(facts, probe, device, progress)
    if known is not None and usable:
        with shown(progress, f"planning {known.name}", None):
            plan = plan_model(known, facts, device if has_device(facts, device) else "auto")
    return Report(facts, plan, diagnose(facts, plan, device))


def _measured(facts: Facts, probe: MachineProbe, device: str, progress: Progress) -> Facts:
    """The facts with measurements of every device, or of the requested one, accelerators first."""
    deadline = time.perf_counter() + MEASURING_S
    free = free_memory(facts)
    wanted = [*(gpu.device for gpu in facts.accelerators), "cpu"] if device == "auto" else [main_device(facts, device)]
    found = {}
    for name in wanted:
        if name in free and time.perf_counter() < deadline:
            found[name] = probe.measure(name, free[name], progress, deadline)
    return dataclasses.replace(facts, measured=found)


def document(report: Report) -> dict[str, Any]:
    """The JSON document: versions, devices, backends, checks, cache, model (or null), problems. Sizes are bytes."""
    facts = report.facts
    derived = {"device": "cpu", "usable_cores": facts.cpu.usable_cores, "memory_free": facts.cpu.memory_free}
    measured = {name: dataclasses.asdict(found) for name, found in facts.measured.items()}
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(Measurement))
    devices: list[dict[str, Any]] = [
        dataclasses.asdict(facts.cpu) | derived,
        *(dataclasses.asdict(gpu) for gpu in facts.accelerators),
    ]
    return {
        "versions": dict(facts.versions),
        "devices": [device | measured.get(device["device"], nothing) for device in devices],
        "backends": dict(facts.backends),
        "checks": [dataclasses.asdict(check) for check in facts.checks],
        "cache": dataclasses.asdict(facts.cache)
        | {"largest": dict(zip(("repo_id", "bytes"), facts.cache.largest, strict=True)) if facts.cache.largest else None},
        "model": _model(report.plan) if report.plan is not None else None,
        "problems": [dataclasses.asdict(problem) for problem in report.problems],
    }


def _model(plan: ModelPlan) -> dict[str, Any]:
    shape = plan.known.shape
    return {
        "name": plan.known.name,
        "repo_id": plan.known.repo_id,
        "path": str(plan.known.path) if plan.known.path else None,
        "download_bytes": plan.known.download_bytes,
        "parameters": shape.parameters(),
        "layers": shape.layers,
        "context": shape.context,
        "stored_dtype": plan.known.dtype,
        "auto_dtype": plan.auto_dtype,
        "dtypes": {dtype.dtype: _dtype(dtype) for dtype in plan.dtypes},
        "best": _dtype(plan.best),
        "placement": [dataclasses.asdict(part) for part in plan.best.parts],
    } | {name: getattr(plan, name) for name in ("command", "first", "faster", "smaller")}


def _dtype(plan: DtypePlan) -> dict[str, Any]:
    """A plan without its parts: only those of the best one are shown."""
    found = dataclasses.asdict(dataclasses.replace(plan, parts=()))
    del found["parts"]
    return found
