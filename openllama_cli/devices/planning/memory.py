"""Does it fit: weights and KV cache in one dtype, against the free memory of each device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from openllama_cli.devices.machine.facts import Facts
from openllama_cli.devices.machine.measure import DTYPES
from openllama_cli.devices.planning.placement import (
    KnownModel,
    Part,
    auto_device_map,
    loading_budget,
    parts,
    quantized_parts,
    skeleton,
)
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.system import device as system
from openllama_cli.system.memory import size

Verdict = Literal["fits", "fits_with_cpu", "fits_in_part", "fits_with_disk", "does_not_fit"]
QUANTIZED = ("int8", "int4")

# Fewer tokens of context than this are useless.
_FEW_TOKENS = 64


@dataclass(frozen=True)
class DeviceLoad:
    """What one device would hold.

    cache_bytes: keys and values of one row at full context. reserved_bytes: for weights loaded from the CPU or disk, one layer
    at a time. free_bytes: None for the disk.
    """

    device: str
    layers: int
    weights_bytes: int
    cache_bytes: int
    reserved_bytes: int
    free_bytes: int | None


@dataclass(frozen=True)
class DtypePlan:
    """The model in one dtype on this machine.

    flag: what selects it. available: whether olc supports that flag on the device that computes. cache_bytes_per_token,
    _per_row: at full context. tokens: of context that fit beside the weights, up to the model's; rows: of a batch, each at full
    context. tokens_per_s_at_most: the limit of memory bandwidth in decode, None if it was not measured or CPU or disk offload
    is involved.
    """

    dtype: str
    flag: str
    available: bool
    weights_bytes: int
    cache_bytes_per_token: int
    cache_bytes_per_row: int
    parts: tuple[Part, ...]
    devices: tuple[DeviceLoad, ...]
    tokens: int
    rows: int
    verdict: Verdict
    verdict_text: str
    tokens_per_s_at_most: float | None

    @property
    def main_device(self) -> str:
        """The device that computes the offloaded layers too."""
        return self.devices[0].device


def plan_dtype(known: KnownModel, dtype: str, facts: Facts, device: str = "auto") -> DtypePlan:
    """Plan one dtype. device: "auto", or the one that everything goes to."""
    shape = known.shape
    placed = _placed(known, dtype, facts, device)
    element = 4 if (auto_dtype(known.dtype, facts, "cpu") if dtype in QUANTIZED else dtype) == "float32" else 2
    per_token = shape.cache_bytes(element)
    per_layer = per_token // shape.layers
    loads = _loads(placed, per_layer * shape.context, free_memory(facts))
    tokens, rows = _room(loads, per_layer, shape.context)
    verdict = _verdict(loads, tokens, shape.context)
    on_cpu = main_device(facts, device) == "cpu"
    words = _in_words(verdict, placed, loads, tokens, shape)
    if dtype in QUANTIZED and not on_cpu:
        words += " (on the CPU)"
    return DtypePlan(
        dtype=dtype,
        flag=f"--quantize {dtype}" if dtype in QUANTIZED else f"--dtype {dtype}",
        available=dtype in DTYPES or on_cpu,
        weights_bytes=sum(part.bytes for part in placed),
        cache_bytes_per_token=per_token,
        cache_bytes_per_row=per_token * shape.context,
        parts=placed,
        devices=loads,
        tokens=tokens,
        rows=rows,
        verdict=verdict,
        verdict_text=words,
        tokens_per_s_at_most=_fastest(placed, loads, facts),
    )


def main_device(facts: Facts, device: str = "auto") -> str:
    """The device that computes: "cuda" is the first GPU, "auto" the first accelerator or else the CPU."""
    if device == "auto":
        return facts.accelerators[0].device if facts.accelerators else "cpu"
    return "cuda:0" if device == "cuda" else device


def auto_dtype(stored: str, facts: Facts, device: str = "auto", *, mapped: bool = False) -> str:
    """`system.device.auto_dtype` on the machine of these facts.

    mapped: for a model large enough that `olc complete` keeps float16 weights as they are on a processor with bfloat16.
    """
    kernels = bool(facts.cpu.own_kernels)
    return system.auto_dtype(stored, main_device(facts, device), facts.cpu.instruction_sets, mapped=mapped, kernels=kernels)


def _placed(known: KnownModel, dtype: str, facts: Facts, device: str) -> tuple[Part, ...]:
    """Where every part goes. Quantized models run on the CPU only."""
    if dtype in QUANTIZED:
        return quantized_parts(known.shape, dtype, 4 if known.dtype == "float32" else 2)
    model = skeleton(known.config, dtype)
    if device != "auto":
        return parts(model, {"": device})
    device_map = auto_device_map(model, loading_budget(facts.cpu.memory_available, facts.accelerators))
    return parts(model, device_map, main_device(facts).partition(":")[0])


def free_memory(facts: Facts) -> dict[str, int]:
    """Free bytes of every device, within a container's limit."""
    free = {"cpu": facts.cpu.memory_free}
    for gpu in facts.accelerators:
        free[gpu.device] = min(gpu.memory_free, facts.cpu.memory_free) if gpu.shares_memory else gpu.memory_free
    return free


def _loads(placed: Sequence[Part], cache_per_layer: int, free: Mapping[str, int]) -> tuple[DeviceLoad, ...]:
    """The parts added up by device. The first device that computes holds the caches of the offloaded layers too and, one layer
    at a time, their weights: accelerate's hooks load them there."""
    order = list(dict.fromkeys(part.device for part in placed))
    computing = [device for device in order if device not in ("cpu", "disk")] or ["cpu"]
    order = [*computing, *(device for device in order if device not in computing)]
    offloaded = {device for device in order if device not in computing}
    largest = max((part.bytes for part in placed if part.device in offloaded), default=0)
    loads = []
    for device in order:
        layers = sum(part.is_layer for part in placed if part.device == device)
        cached = 0 if device in offloaded else layers
        if device == computing[0]:
            cached += sum(part.is_layer for part in placed if part.device in offloaded)
        loads.append(
            DeviceLoad(
                device=device,
                layers=layers,
                weights_bytes=sum(part.bytes for part in placed if part.device == device),
                cache_bytes=cached * cache_per_layer,
                reserved_bytes=largest if device == computing[0] else 0,
                free_bytes=None if device == "disk" else free.get(device, 0),
            )
        )
    return tuple(loads)


def _room(loads: Sequence[DeviceLoad], per_layer: int, context: int) -> tuple[int, int]:
    """Tokens of context (at most the model's) and rows of full context that fit beside the weights."""
    tokens, rows = context, 1 << 16
    for load in loads:
        if load.free_bytes is None:
            continue
        left = load.free_bytes - load.weights_bytes - load.reserved_bytes
        if left < 0:
            return 0, 0
        if load.cache_bytes:
            tokens = min(tokens, left * context // load.cache_bytes)
            rows = min(rows, left // load.cache_bytes)
    return tokens, rows


def _verdict(loads: Sequence[DeviceLoad], tokens: int, context: int) -> Verdict:
    if tokens < min(_FEW_TOKENS, context):
        return "does_not_fit"
    if any(load.device == "disk" for load in loads):
        return "fits_with_disk"
    if tokens < context:
        return "fits_in_part"
    return "fits_with_cpu" if any(load.device == "cpu" for load in loads[1:]) else "fits"


def _in_words(verdict: Verdict, placed: Sequence[Part], loads: Sequence[DeviceLoad], tokens: int, shape: LlamaShape) -> str:
    if verdict == "does_not_fit":
        lacking = {
            load.device: load.weights_bytes + load.reserved_bytes + load.cache_bytes - load.free_bytes
            for load in loads
            if load.free_bytes is not None
        }
        device = max(lacking, key=lambda name: lacking[name])
        return f"does not fit: {device} is {size(lacking[device])} short"
    away = []
    for device, name in (("cpu", "the CPU"), ("disk", "disk")):
        if device == loads[0].device or not any(part.device == device for part in placed):
            continue
        count = sum(part.is_layer for part in placed if part.device == device)
        away.append(f"{count} of {shape.layers} layers on {name}" if count else f"the output layer on {name}")
    words = "fits" + (f" with {' and '.join(away)}" if away else "")
    return words if tokens == shape.context else f"{words}, up to {tokens:,} tokens"


def _fastest(placed: Sequence[Part], loads: Sequence[DeviceLoad], facts: Facts) -> float | None:
    """Tokens per second if decode only read the weights once per token, at the measured bandwidth.

    Of an embedding that is not also the output matrix, a token needs one row.
    """
    if any(load.device in ("cpu", "disk") for load in loads[1:]):
        return None
    own_output = any(part.module == "lm_head" for part in placed)
    seconds = 0.0
    for load in loads:
        measured = facts.measured.get(load.device)
        if measured is None or measured.bandwidth_gb_per_s is None:
            return None
        read = (part for part in placed if part.device == load.device)
        count = sum(part.bytes for part in read if not (own_output and part.module == "model.embed_tokens"))
        seconds += count / (measured.bandwidth_gb_per_s * 1e9)
    return 1 / seconds if seconds else None
