"""The command that runs a model best on this machine."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from openllama_cli.devices.machine.facts import Facts
from openllama_cli.devices.machine.measure import DTYPES
from openllama_cli.devices.planning.known_model import KnownModel, catalogue_models
from openllama_cli.devices.planning.memory import QUANTISED, DtypePlan, Verdict, auto_dtype, main_device, plan_dtype

PROMPT = "Q: What is the largest animal?"

_RANK: Mapping[Verdict, int] = {"fits": 0, "fits_with_cpu": 1, "fits_in_part": 2, "fits_with_disk": 3, "does_not_fit": 4}
_FAIR_CONTEXT = 512
# As in models.load: `olc complete` keeps float16 weights of larger models as they are.
_WORTH_MAPPING = 500_000_000


@dataclass(frozen=True)
class ModelPlan:
    """A model on this machine, in every type.

    device: as asked for. auto_dtype: what `--dtype auto` is here. best: the type that the command uses. command: what to type;
    None where the model fits in no way. first: what has to be typed before, a download. faster: the same with int8 weights,
    where olc has them for this device. smaller: the largest model with an alias that fits, where this one does not fit whole.
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


def plan_model(known: KnownModel, facts: Facts, device: str = "auto", *, quantize: bool = False) -> ModelPlan:
    """Plan a model in every type and choose. device: "auto" or one that is there. quantize: whether olc has `--quantize`.

    Imports torch and transformers; nothing is downloaded and no weight is read.
    """
    target = device if device == "auto" else main_device(facts, device)
    plans = tuple(plan_dtype(known, dtype, facts, target, quantize=quantize) for dtype in (*DTYPES, *QUANTISED))
    large = known.path is None or known.shape.parameters() * 2 > _WORTH_MAPPING
    automatic = auto_dtype(known.dtype, facts, device, mapped=large)
    best = _best(plans, automatic, facts)
    flags = [] if device == "auto" else ["--device", device]
    alone = _one_gpu(known, best, facts, quantize=quantize) if device == "auto" else None
    if alone is not None:
        best, flags = alone, ["--device", alone.main_device]
    int8 = next(plan for plan in plans if plan.dtype == "int8")
    fits = best.verdict != "does_not_fit"
    return ModelPlan(
        known=known,
        device=device,
        auto_dtype=automatic,
        dtypes=plans,
        best=best,
        command=_command(known, flags if best.dtype == automatic else [*flags, *best.flag.split()]) if fits else None,
        first=shlex.join(["olc", "models", "pull", known.name]) if known.path is None and fits else None,
        faster=_command(known, [*flags, *int8.flag.split()]) if _halves(int8, best) else None,
        smaller=None if _RANK[best.verdict] < 2 else _smaller(known, facts, target),
    )


def _command(known: KnownModel, flags: Sequence[str]) -> str:
    return shlex.join(["olc", "complete", "-m", known.name, *flags]) + f' "{PROMPT}"'


def _halves(int8: DtypePlan, best: DtypePlan) -> bool:
    """Whether int8 weights can be had here and are fewer bytes for every token, in a model where that is felt."""
    return int8.available and int8.verdict == "fits" and best.dtype not in QUANTISED and best.weights_bytes > _WORTH_MAPPING


def _best(plans: Sequence[DtypePlan], automatic: str, facts: Facts) -> DtypePlan:
    """The plan with the best verdict; among equals `--dtype auto`, then what is quick on the device, then quantized ones."""
    halves = ("bfloat16", "float16") if not facts.accelerators else ("float16", "bfloat16")
    order = [automatic, *halves, "float32", *QUANTISED]
    working = [plan for plan in plans if plan.available and _works(plan, facts)] or [plan for plan in plans if plan.available]
    return min(working, key=lambda plan: (_RANK[plan.verdict], order.index(plan.dtype)))


def _works(plan: DtypePlan, facts: Facts) -> bool:
    """Whether the smoke test of this type, where there was one, went well on every device that computes."""
    results = [facts.measured[load.device].dtypes.get(plan.dtype) for load in plan.devices if load.device in facts.measured]
    return all(result is None or result.ok for result in results)


def _one_gpu(known: KnownModel, spread: DtypePlan, facts: Facts, *, quantize: bool) -> DtypePlan | None:
    """The plan of one GPU where a model that auto spreads over several fits on it: nothing has to travel between them."""
    gpus = [load.device for load in spread.devices if load.device.startswith("cuda:")]
    if len(gpus) < 2:
        return None
    roomy = max(facts.accelerators, key=lambda gpu: gpu.memory_free)
    plan = plan_dtype(known, spread.dtype, facts, roomy.device, quantize=quantize)
    return plan if plan.verdict == "fits" else None


def _smaller(known: KnownModel, facts: Facts, device: str) -> str:
    """The alias of the largest smaller model that leaves room for a fair context in `--dtype auto`, else the demo."""
    for other in catalogue_models():
        if other.shape.parameters() < known.shape.parameters():
            plan = plan_dtype(other, auto_dtype(other.dtype, facts, device), facts, device)
            if _RANK[plan.verdict] < 3 and plan.tokens >= min(_FAIR_CONTEXT, other.shape.context):
                return other.name
    return "demo"
