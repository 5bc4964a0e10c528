"""A model by name, and where `device_map="auto"` would put its parts, found without its weights.

The model is built on torch's meta device, where tensors have a size and no memory, and transformers' own function decides, the
one that `from_pretrained` calls. Only the memory that it may count on is computed here, by its rules, so that the plan can be
made for any machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.devices.machine.facts import Accelerator
from openllama_cli.errors import HubError
from openllama_cli.models import find
from openllama_cli.models.adapters.apply import with_adapters
from openllama_cli.models.adapters.find import adapter_alone, base_of
from openllama_cli.models.catalogue import CATALOGUE, by_repo_id
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.models.hub.cache import cached
from openllama_cli.models.spec import FoundAdapter
from openllama_cli.native import INT4_GROUP
from openllama_cli.system.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


# accelerate's names of devices: the number of a GPU, "mps", "cpu", "disk".
Budget = Mapping[int | str, int]

# The share that transformers fills of the computer's memory, and of a single GPU's.
_SHARE = 0.9


@dataclass(frozen=True)
class KnownModel:
    """What planning needs to know of a model, with nothing loaded and nothing downloaded.

    name: as the user gave it. config: keyword arguments for transformers' LlamaConfig. dtype: as stored. path: of its files,
    None if they are not on this machine; download_bytes, pull: the size of the download, and its name.
    """

    name: str
    repo_id: str | None
    config: dict[str, Any]
    shape: LlamaShape
    dtype: str
    path: Path | None
    download_bytes: int
    pull: str = ""


def look_up(name: str) -> KnownModel:
    """A model by alias, folder or Hub id: its checkpoint if it is here, else the published shape of an OpenLLaMA model. Of an
    adapter, the model that it was made for.

    Raises ModelError for an unknown name or a broken checkpoint, HubError for a Hub model that is neither cached nor in the
    catalogue.
    """
    target = find.resolve(name)
    path = _here(target, None)
    if path is None or not adapter_alone(path):
        return _known(target, None)
    base, revision = base_of(path, name)
    known = _known(find.resolve(base), revision)
    if known.path is not None:
        checkpoint = with_adapters(inspect(known.path), [FoundAdapter(path, name)])
        known = replace(known, config=checkpoint.config, shape=checkpoint.shape)
    return replace(known, name=name)


def _here(target: find.Target, revision: str | None) -> Path | None:
    """Where a model is on this machine."""
    if target.path is not None or target.repo_id is None:
        return target.path
    folder = cached(target.repo_id, revision, target.file)
    return None if folder is None else target.within(folder)


def _known(target: find.Target, revision: str | None) -> KnownModel:
    name, path = target.name, _here(target, revision)
    if path is not None:
        checkpoint = inspect(path)
        return KnownModel(name, target.repo_id, checkpoint.config, checkpoint.shape, checkpoint.dtype, path, 0, name)
    entry = CATALOGUE.get(name) or (by_repo_id(target.repo_id) if target.repo_id else None)
    if entry is None or entry.shape is None:
        raise HubError(
            f"{name} is not in the cache, and olc does not know its shape",
            f"download it with `olc models pull {name}`",
            code="not_cached",
        )
    return KnownModel(name, entry.repo_id, entry.shape.config(), entry.shape, "float16", None, entry.download_bytes, name)


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

    memory_available: of the computer, as the system reports it; transformers ignores a container's limit. accelerators: those
    that torch can use. Memory that GPU and CPU share is counted once, as the GPU's.
    """
    gpus = [accelerator for accelerator in accelerators if accelerator.device != "mps"]
    budget: dict[int | str, int] = {int(gpu.device.partition(":")[2] or 0): gpu.memory_free for gpu in gpus}
    if len(budget) == 1:
        budget = {index: int(free * _SHARE) for index, free in budget.items()}
    if len(gpus) < len(accelerators):
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

    The output matrix has 8 bits with either method; embedding and norms stay as stored, in `stored_bytes` per number.
    """
    sizes: dict[str, int] = {}
    for name, size in (shape.tensors() | ({"lm_head.weight": (shape.vocab, shape.hidden)} if shape.tie else {})).items():
        part = _part_of(name)
        if name.endswith(".bias"):
            count = 4 * size[0]
        elif len(size) == 1 or part == "model.embed_tokens":
            count = stored_bytes * math.prod(size)
        elif method == "int8" or part == "lm_head":
            count = size[0] * (size[1] + 4)  # With a float32 scale per row.
        else:
            groups = math.ceil(size[1] / INT4_GROUP)
            count = size[0] * groups * (INT4_GROUP // 2 + 4)  # With a bfloat16 scale and zero point per group.
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
    """The model's parts in order, each where the map puts it. kind: of device, for numbers in the map.

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
