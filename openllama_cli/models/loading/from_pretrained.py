"""transformers' side of loading: calling `from_pretrained`, checking what it says of the weights, and where it put them."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.inspect import Checkpoint
from openllama_cli.models.checkpoint.tensors import TensorSource, mapped_tensors
from openllama_cli.models.loading.llama_config import llama_config
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.system.importing import importing
from openllama_cli.system.progress import Progress
from openllama_cli.system.replaced import replaced

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


def from_pretrained(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    dtype: "torch.dtype",
    progress: Progress,
    *,
    cast_first: bool = False,
    **placement: Any,
) -> "LlamaForCausalLM":
    """Call transformers, and check what it says of the weights it found.

    cast_first: convert the weights on the CPU before it gets them. placement: what it is told of devices; a state_dict in it
    holds the weights in place of the checkpoint's files.
    """
    with importing("transformers.models.llama.modeling_llama"):
        from transformers import GenerationConfig, LlamaForCausalLM

    from openllama_cli.system.quiet import quiet_transformers

    sizes = {name: tensor.nbytes for name, tensor in checkpoint.tensors.items()}
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(checkpoint.path)}
    # Alone: sampling defaults that come with a checkpoint must not reach `model.generate` unasked.
    special_ids = GenerationConfig(
        bos_token_id=tokenizer.bos_id, eos_token_id=sorted(tokenizer.eos_ids) or None, pad_token_id=0
    )
    with quiet_transformers(lambda name: progress.advance(sizes.pop(name, 0))), _without_adapters():
        config, _ = llama_config(checkpoint)
        if "state_dict" in placement:
            source = {"pretrained_model_name_or_path": None}
        elif cast_first or checkpoint.composed:
            stored, state = TensorSource(checkpoint), {}
            for name in checkpoint.tensors:  # One after another: the checkpoint's pages do not pile up in memory.
                state[name] = stored.get(name, dtype)
                progress.advance(sizes.pop(name))
            source = {"pretrained_model_name_or_path": None, "state_dict": state}
        elif not checkpoint.plain:
            source = {"pretrained_model_name_or_path": None, "state_dict": mapped_tensors(checkpoint)}
        loaded: Any = LlamaForCausalLM.from_pretrained(
            **source,
            **placement,
            config=config,
            generation_config=special_ids,
            dtype=dtype,
            use_safetensors=checkpoint.format == "safetensors",
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
        )
    model, info = loaded
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(map(str, info[what]))
        if names:
            raise ModelError(
                f"{checkpoint.path}: Transformers reports {len(names)} {what.replace('_', ' ')}, such as {names[0]}",
                "use config.json and weights of the same model",
            )
    assert isinstance(model, LlamaForCausalLM)
    return model.requires_grad_(False)


def _without_adapters() -> AbstractContextManager[None]:
    """Keep transformers from applying an adapter that lies in the model's folder, as it does where peft can be imported.

    olc's own passes would read the weights beneath it: an answer would depend on what else is installed.
    """
    import transformers.modeling_utils as module

    return replaced(module, maybe_load_adapters=lambda folder, *_, **options: (None, folder, options))


def input_device(model: "LlamaForCausalLM") -> "torch.device":
    """Where token ids have to be: on the device of the embeddings, or on the CPU where those wait on the CPU or disk.

    `model.device` is no guide: it is "meta" as soon as the first weight is offloaded.
    """
    import torch

    placed = _placed(model)
    where = next(placed[module] for module in ("model.embed_tokens", "model", "") if module in placed)
    return torch.device("cpu") if where in ("cpu", "disk", "meta") else torch.device(where)


def describe_devices(model: "LlamaForCausalLM") -> str:
    """Where the model's parts are, each device once in order of use: "cpu", "cuda:0", "cuda:0,cpu,disk"."""
    import torch

    names = [where if where == "disk" else str(torch.device(where)) for where in _placed(model).values()]
    return ",".join(dict.fromkeys(names))


def _placed(model: "LlamaForCausalLM") -> "dict[str, Any]":
    """Module → device, as accelerate has it; without it all is where the embeddings are."""
    placed = cast("dict[str, Any]", getattr(model, "hf_device_map", {}))
    return placed or {"": model.model.embed_tokens.weight.device}
