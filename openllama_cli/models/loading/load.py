"""From a folder to a model that generates.

transformers loads; this module sees to it that what comes out is what the checkpoint holds, or an error: headers are checked
before torch is imported, config.json reaches transformers only in the keys that olc knows, no code comes with a model, nothing
is asked of the network, and a missing weight is never filled with random numbers.
"""

import atexit
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openllama_cli.models.checkpoint.inspect import Checkpoint, check_vocabulary
from openllama_cli.models.checkpoint.read_errors import explained
from openllama_cli.models.checkpoint.tensors import mapped_tensors
from openllama_cli.models.loading.from_pretrained import describe_devices, from_pretrained, input_device
from openllama_cli.models.loading.startup import map_pages, prepare_environment, read_ahead
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.quantize.copies import weight_files
from openllama_cli.models.quantize.weights import QuantizedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.system.device import choose_dtype, free_bytes, main_device
from openllama_cli.system.progress import NullProgress, Progress, shown

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


# Bytes of weights. Converting less takes no time that anybody notices.
WORTH_MAPPING = 500_000_000
# Free memory for each byte of weights that are converted.
_ROOM = 1.1

MaxMemory = Mapping[int | str, int | str]


@dataclass(frozen=True)
class LoadedModel(OpenedModel):
    """A model that is ready: what `load` hands to generation.

    model: in eval mode, without gradients; None where the weights are quantized. Its generation_config holds the special ids
    and nothing else, so that `model.generate` adds nothing to what it is told. input_device: where token ids have to be.
    dtype: of the weights, or of the activations with quantized weights. device: where the weights are, in words: "cpu",
    "cuda:0", "cuda:0,cpu,disk". load_seconds: of the call of `load`, importing torch and transformers included.
    quantized: the weights, if they are.
    """

    model: "LlamaForCausalLM | None"
    input_device: "torch.device"
    dtype: "torch.dtype"
    device: str
    load_seconds: float
    quantized: QuantizedModel | None = None

    @property
    def precision(self) -> str:
        """The types of weights and activations, for people: "bfloat16", or "int8 weights, bfloat16 activations"."""
        name = str(self.dtype).removeprefix("torch.")
        return name if self.quantized is None else f"{self.quantized.method} weights, {name} activations"


def load(
    opened: OpenedModel,
    spec: ModelSpec,
    *,
    one_row: bool = False,
    lean: bool = True,
    progress: Progress | None = None,
    max_memory: MaxMemory | None = None,
    notice: Callable[[str], None] | None = None,
) -> LoadedModel:
    """Load the weights of a model in any format that `checkpoint.inspect` knows.

    Weights are mapped, not copied, where their stored type is kept on the CPU.

    one_row: only one row will run at a time, with olc's own forward pass: large float16 weights are then kept mapped on a CPU,
    where that is fastest; for olc's own kernels they always are. lean: False for a model that Transformers will run. progress:
    counts the stored bytes of the weights that are in place. max_memory: bytes (or "1GB") for each device, for device "auto",
    as accelerate takes it; None lets it look. notice: told what people should know.

    With `spec.quantize` the quantized weights come from their copy in olc's cache, which is made first where there is none.

    Raises ModelError for a checkpoint that cannot be used or does not fit, OlcError for a device that is not there.
    """
    started = time.perf_counter()
    progress = progress or NullProgress()
    folder, checkpoint, tokenizer = opened.folder, opened.checkpoint, opened.tokenizer
    check_vocabulary(tokenizer, checkpoint)
    prepare_environment()
    loaded = partial(LoadedModel, folder, checkpoint, tokenizer)
    if spec.quantize is not None:
        from openllama_cli.models.quantize.load import load_quantized

        read_ahead(weight_files(folder.path, spec.quantize))
        quantized = load_quantized(folder, checkpoint, spec, progress, notice or (lambda text: None))
        return loaded(
            model=None,
            input_device=main_device("cpu"),
            dtype=quantized.dtype,
            device="cpu",
            load_seconds=time.perf_counter() - started,
            quantized=quantized,
        )
    read_ahead(checkpoint.files)
    with shown(progress, f"loading {folder.name}", checkpoint.tensor_bytes):
        device = main_device(spec.device)
        kernels = lean and runs_kernels(checkpoint, device)
        large = one_row and device.type == "cpu" and checkpoint.bytes > WORTH_MAPPING
        mapped = kernels or (large and _keep_mapped(checkpoint))
        dtype = choose_dtype(spec.dtype, checkpoint.dtype, device, mapped=mapped, kernels=kernels)
        converts = device.type == "cpu" and checkpoint.dtype == "float16" and str(dtype) != "torch.float16"
        # On the CPU before transformers gets them, whose way takes several times as long.
        converted = converts and max_memory is None and _fits(checkpoint, dtype)
        # What is in memory already is not to be counted once more against the memory that is free.
        placed = device.type == "cpu" and max_memory is None and (converted or checkpoint.composed)
        stored = checkpoint.plain and not checkpoint.composed and str(dtype) == f"torch.{checkpoint.dtype}"
        kept = device.type == "cpu" and max_memory is None and stored
        with _offload_folder() as offload, explained(checkpoint, device, dtype):
            model = from_pretrained(
                checkpoint,
                tokenizer,
                dtype,
                progress,
                cast_first=converted,
                # "auto" lets accelerate spread the layers.
                device_map="auto" if spec.device == "auto" and not placed else {"": device},
                max_memory=None if max_memory is None else dict(max_memory),
                offload_folder=str(offload),
                **_mapped_early(checkpoint) if kept and _fits(checkpoint, dtype) else {},
            )
    return loaded(
        model=model,
        input_device=input_device(model),
        dtype=dtype,
        device=describe_devices(model),
        load_seconds=time.perf_counter() - started,
    )


def runs_kernels(checkpoint: Checkpoint, device: "torch.device") -> bool:
    """Whether olc's own kernels multiply a model's weights: on a CPU, and in the lean forward pass, which knows SiLU only."""
    from openllama_cli.native import library

    return device.type == "cpu" and checkpoint.config.get("hidden_act", "silu") == "silu" and library.usable()


def _keep_mapped(checkpoint: Checkpoint) -> bool:
    """Whether float16 weights are best left in their file: where they cannot be multiplied faster, or have no room.

    On a processor with AMX, torch's bfloat16 matmuls run at nearly twice the speed of its float16 ones; converting the weights
    costs as much as some 15 tokens. olc's own kernels take float16 as it is.
    """
    import torch

    from openllama_cli.native import library

    return library.usable() or not library.has_amx() or not _fits(checkpoint, torch.bfloat16)


def _fits(checkpoint: Checkpoint, dtype: "torch.dtype") -> bool:
    """Whether the CPU's free memory holds the weights in another type."""
    import torch

    return free_bytes(torch.device("cpu")) >= _ROOM * dtype.itemsize * checkpoint.shape.parameters()


def _mapped_early(checkpoint: Checkpoint) -> dict[str, Any]:
    """The weights in their files, for transformers to put in place. What a forward pass reads is mapped in the background: all
    but the embedding, of which it reads a few rows.
    """
    weights = mapped_tensors(checkpoint)
    embedding = None if checkpoint.shape.tie else "model.embed_tokens.weight"
    map_pages(weight[...] for name, weight in weights.items() if name != embedding)
    return {"state_dict": weights}


@contextlib.contextmanager
def _offload_folder() -> Iterator[Path]:
    """For weights that fit nowhere else and are in no safetensors file; removed after the block if empty, else at exit."""
    folder = tempfile.TemporaryDirectory(prefix="olc-offload-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    with contextlib.ExitStack() as unless_used:
        unless_used.callback(folder.cleanup)
        yield Path(folder.name)
        if any(Path(folder.name).iterdir()):
            unless_used.pop_all()
