"""The command that runs a model best on this machine."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openllama_cli.devices.machine.facts import Facts
from openllama_cli.devices.machine.measure import DTYPES
from openllama_cli.devices.planning.memory import QUANTIZED, DtypePlan, Verdict, auto_dtype, main_device, plan_dtype
from openllama_cli.devices.planning.placement import KnownModel, look_up
from openllama_cli.models.catalogue import CATALOGUE
from openllama_cli.models.loading.load import WORTH_MAPPING

PROMPT = "Q: What is the largest animal?"

_RANK: Mapping[Verdict, int] = {"fits": 0, "fits_with_cpu": 1, "fits_in_part": 2, "fits_with_disk": 3, "does_not_fit": 4}
_FAIR_CONTEXT = 512


@dataclass(frozen=True)
class ModelPlan:
    """A model on this machine, in every dtype.

    device: as requested. auto_dtype: what `--dtype auto` is here. best: the dtype that the command uses. command: what to type;
    None if the model does not fit at all. first: what has to be typed before it, a download. faster: the same with int8
    weights, if olc supports them on this device. smaller: the largest model with an alias that fits, if this one does not fit
    completely.
    """

    known: KnownModel
    device: str
    auto_dtype: str
    dtypes: tuple[DtypePlan, ...]
    best: DtypePlan
    command: str | None
    first: str | None
    faster: str | None
    smaller: str | None


def plan_model(known: KnownModel, facts: Facts, device: str = "auto") -> ModelPlan:
    """Plan a model in every dtype and choose. device: "auto" or an available one.

    Imports torch and transformers; nothing is downloaded and no weight is read.
    """
    target = device if device == "auto" else main_device(facts, device)
    plans = tuple(plan_dtype(known, dtype, facts, target) for dtype in (*DTYPES, *QUANTIZED))
    large = known.path is None or known.shape.parameters() * 2 > WORTH_MAPPING
    automatic = auto_dtype(known.dtype, facts, device, mapped=large or bool(facts.cpu.own_kernels))
    best = _best(plans, automatic, facts)
    flags = [] if device == "auto" else ["--device", device]
    alone = _one_gpu(known, best, facts) if device == "auto" else None
    if alone is not None:
        best, flags = alone, ["--device", alone.main_device]
    int8 = next(plan for plan in plans if plan.dtype == "int8")
    # Fewer bytes per token, in a model large enough to notice.
    halves = int8.available and int8.verdict == "fits" and best.dtype not in QUANTIZED and best.weights_bytes > WORTH_MAPPING
    fits = best.verdict != "does_not_fit"
    return ModelPlan(
        known=known,
        device=device,
        auto_dtype=automatic,
        dtypes=plans,
        best=best,
        command=_command(known, flags if best.dtype == automatic else [*flags, *best.flag.split()]) if fits else None,
        first=shlex.join(["olc", "models", "pull", known.pull]) if known.path is None and fits else None,
        faster=_command(known, [*flags, *int8.flag.split()]) if halves else None,
        smaller=None if _RANK[best.verdict] < 2 else _smaller(known, facts, target),
    )


def _command(known: KnownModel, flags: Sequence[str]) -> str:
    return shlex.join(["olc", "complete", "-m", known.name, *flags]) + f' "{PROMPT}"'


def _best(plans: Sequence[DtypePlan], automatic: str, facts: Facts) -> DtypePlan:
    """The plan with the best verdict; among equals `--dtype auto`, then what is fast on the device, then quantized ones."""
    halves = ("bfloat16", "float16") if not facts.accelerators else ("float16", "bfloat16")
    order = [automatic, *halves, "float32", *QUANTIZED]
    working = [plan for plan in plans if plan.available and _works(plan, facts)] or [plan for plan in plans if plan.available]
    return min(working, key=lambda plan: (_RANK[plan.verdict], order.index(plan.dtype)))


def _works(plan: DtypePlan, facts: Facts) -> bool:
    """Whether the smoke test of this dtype, if there was one, passed on every device that computes."""
    results = [facts.measured[load.device].dtypes.get(plan.dtype) for load in plan.devices if load.device in facts.measured]
    return all(result is None or result.ok for result in results)


def _one_gpu(known: KnownModel, spread: DtypePlan, facts: Facts) -> DtypePlan | None:
    """The plan of one GPU if a model that auto spreads over several fits on it: no activations move between GPUs then."""
    gpus = [load.device for load in spread.devices if load.device.startswith("cuda:")]
    if len(gpus) < 2:
        return None
    roomy = max(facts.accelerators, key=lambda gpu: gpu.memory_free)
    plan = plan_dtype(known, spread.dtype, facts, roomy.device)
    return plan if plan.verdict == "fits" else None


def _smaller(known: KnownModel, facts: Facts, device: str) -> str:
    """The alias of the largest smaller model with room for a reasonable context in `--dtype auto`, else the demo."""
    published = [look_up(alias) for alias, entry in CATALOGUE.items() if entry.shape is not None]
    # Of models of one size the newer comes first.
    for other in sorted(published, key=lambda model: -model.shape.parameters()):
        if other.shape.parameters() < known.shape.parameters():
            plan = plan_dtype(other, auto_dtype(other.dtype, facts, device), facts, device)
            if _RANK[plan.verdict] < 3 and plan.tokens >= min(_FAIR_CONTEXT, other.shape.context):
                return other.name
    return "demo"
