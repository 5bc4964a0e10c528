"""Where a model goes and in which type: `--device` and `--dtype`, and what they mean on this machine."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


def device_map(requested: str, device: "torch.device") -> "str | dict[str, torch.device]":
    """What transformers takes as device_map: "auto" lets accelerate spread the layers, else everything goes to `device`."""
    return "auto" if requested == "auto" else {"": device}


def input_device(model: "LlamaForCausalLM") -> "torch.device":
    """Where token ids have to be: on the device of the embeddings, or on the CPU where those wait on the CPU or disk.

    `model.device` is no guide: it is "meta" as soon as the first weight is offloaded.
    """
    import torch

    placed: dict[str, int | str | torch.device] = getattr(model, "hf_device_map", {})
    for module in ("model.embed_tokens", "model", ""):
        if module in placed:
            where = placed[module]
            return torch.device("cpu") if where in ("cpu", "disk", "meta") else torch.device(where)
    return _embedding_device(model)


def describe_devices(model: "LlamaForCausalLM") -> str:
    """Where the model's parts are, each device once in order of use: "cpu", "cuda:0", "cuda:0,cpu,disk"."""
    import torch

    placed: dict[str, int | str | torch.device] = getattr(model, "hf_device_map", {})
    if not placed:
        return str(_embedding_device(model))
    names = [where if where == "disk" else str(torch.device(where)) for where in placed.values()]
    return ",".join(dict.fromkeys(names))


def _embedding_device(model: "LlamaForCausalLM") -> "torch.device":
    weight: torch.Tensor = model.model.embed_tokens.weight
    return weight.device
