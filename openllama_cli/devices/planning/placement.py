"""Where `device_map="auto"` would put a model's parts, found without its weights.

The model is built on torch's meta device, where tensors have a size and no memory, and transformers' own function decides, the
one that `from_pretrained` calls. Only the memory that it may count on is reckoned here, by its rules, so that the plan can be
made for any machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openllama_cli.devices.machine.facts import Accelerator
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.native import INT4_GROUP
from openllama_cli.system.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


# accelerate's names of devices: the number of a GPU, "mps", "cpu", "disk".
Budget = Mapping[int | str, int]

# What transformers fills of the computer's memory, and of a sole GPU's.
_SHARE = 0.9


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
    """The model without weights. config: for LlamaConfig. dtype: a torch type."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from_config: Any = AutoModelForCausalLM.from_config
    with quiet_transformers(), torch.device("meta"):
        model: LlamaForCausalLM = from_config(LlamaConfig(**config), dtype=getattr(torch, dtype))
    return model


def quantized_parts(shape: LlamaShape, method: str, stored_bytes: int) -> tuple[Part, ...]:
    """The parts of a model with `--quantize`, all on the CPU, in the layout of models.quantize. method: "int8" or "int4".

    The output matrix has 8 bits with either method; embedding and norms stay as stored, in `stored_bytes` a number.
    """
    sizes: dict[str, int] = {}
    for name, size in (shape.tensors() | ({"lm_head.weight": (shape.vocab, shape.hidden)} if shape.tie else {})).items():
        part = _part_of(name)
        if name.endswith(".bias"):
            count = 4 * size[0]
        elif len(size) == 1 or part == "model.embed_tokens":
            count = stored_bytes * math.prod(size)
        elif method == "int8" or part == "lm_head":
            count = size[0] * (size[1] + 4)  # And a scale in float32 for each row.
        else:
            groups = math.ceil(size[1] / INT4_GROUP)
            count = size[0] * groups * (INT4_GROUP // 2 + 4)  # And a scale and a zero in bfloat16 for each group.
        sizes[part] = sizes.get(part, 0) + count
    return tuple(Part(module, "cpu", size) for module, size in sizes.items())


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
