"""Where `device_map="auto"` would put a model's parts, found without its weights.

The model is built on torch's meta device, where tensors have a size and no memory, and transformers' own function decides, the
one that `from_pretrained` calls. Only the memory that it may count on is reckoned here, by its rules, so that the plan can be
made for any machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.devices.facts import Accelerator
from openllama_cli.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# accelerate's names of devices: the number of a GPU, "mps", "cpu", "disk".
Budget = Mapping[int | str, int]

# What transformers fills of the computer's memory, and of a sole GPU's.
_SHARE = 0.9

# Numbers of a weight matrix that share a scale and an offset of two bytes each.
INT4_GROUP = 64


@dataclass(frozen=True)
class Part:
    """A part of the model ("model.embed_tokens", "model.layers.3", "lm_head"), its device and its bytes there."""

    module: str
    device: str
    bytes: int

    @property
    def is_layer(self) -> bool:
        """Whether it is one of the decoder layers, which have a KV cache."""
        return self.module.startswith("model.layers.")


def loading_budget(memory_available: int, accelerators: Sequence[Accelerator]) -> Budget:
    """The memory that transformers counts on for device_map="auto", as `get_max_memory` and `get_balanced_memory` do.

    memory_available: of the computer, as the system tells it; transformers knows nothing of a container's limit. accelerators:
    those that torch can use. Where GPU and CPU share memory it is counted once, as the GPU's.
    """
    budget: dict[int | str, int] = {}
    for accelerator in accelerators:
        kind, _, index = accelerator.device.partition(":")
        if kind != "mps":
            budget[int(index or 0)] = accelerator.memory_free
    if len(budget) == 1:
        budget = {index: int(free * _SHARE) for index, free in budget.items()}
    if any(accelerator.device == "mps" for accelerator in accelerators):
        return budget | {"mps": memory_available}
    if any(accelerator.shares_memory for accelerator in accelerators):
        return budget
    return budget | {"cpu": int(memory_available * _SHARE)}


def skeleton(config: Mapping[str, Any], dtype: str) -> "LlamaForCausalLM":
    """The model without weights. config: for LlamaConfig. dtype: a torch type, or "int8" or "int4" for linear layers of those.

    The quantised ones are an estimate: int8 with a scale of two bytes for each row, int4 with a scale and an offset for every
    64 numbers, embeddings and norms in bfloat16.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    floating = "bfloat16" if dtype in ("int8", "int4") else dtype
    from_config: Any = AutoModelForCausalLM.from_config
    with quiet_transformers(), torch.device("meta"):
        model: LlamaForCausalLM = from_config(LlamaConfig(**config), dtype=getattr(torch, floating))
        if floating != dtype:
            _quantise(model, dtype)
    return model


def _quantise(model: "LlamaForCausalLM", dtype: str) -> None:
    """Give every linear layer as many bytes as it would have once quantised."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            rows, columns = module.weight.shape
            each = columns + 2 if dtype == "int8" else math.ceil(columns / 2) + 4 * math.ceil(columns / INT4_GROUP)
            module.weight = torch.nn.Parameter(torch.empty(rows, each, dtype=torch.uint8), requires_grad=False)


def auto_device_map(model: "LlamaForCausalLM", budget: Budget) -> dict[str, int | str]:
    """What `from_pretrained(device_map="auto")` would choose with this memory: module → device, as in `hf_device_map`."""
    from transformers.integrations.accelerate import _get_device_map

    choose: Any = _get_device_map
    with quiet_transformers():
        chosen: dict[str, int | str] = choose(model, "auto", dict(budget), None)
    return chosen


def parts(model: "LlamaForCausalLM", device_map: Mapping[str, int | str], kind: str = "cuda") -> tuple[Part, ...]:
    """The model's parts in order, each where the map puts it. kind: what a number in the map is a number of.

    Tied weights count where they come first.
    """
    sizes: dict[str, int] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        module = _part_of(name)
        sizes[module] = sizes.get(module, 0) + tensor.nbytes
    return tuple(Part(module, _device(module, device_map, kind), size) for module, size in sizes.items())


def _part_of(name: str) -> str:
    """The part that a weight belongs to: "model.layers.3" of "model.layers.3.mlp.up_proj.weight"."""
    words = name.split(".")
    return ".".join(words[:3] if words[:2] == ["model", "layers"] else words[:-1])


def _device(module: str, device_map: Mapping[str, int | str], kind: str) -> str:
    """The entry of the closest module at or above this one."""
    name = module
    while name and name not in device_map:
        name = name.rpartition(".")[0]
    place = device_map[name]
    return f"{kind}:{place}" if isinstance(place, int) else place
