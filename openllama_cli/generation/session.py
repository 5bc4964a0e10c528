"""The face of generation: load an opened model, choose a forward pass for it, and make the engine that runs prompts.

    loaded = load_model(opened, spec)
    engine = make_engine(loaded)                    # chooses the forward pass
    for step in stream(engine, loaded.tokenizer, prompts): ...

Importing this module does not import torch; loading does.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from openllama_cli.errors import first_line
from openllama_cli.models.loading.ranks import rank_info
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.system.progress import Progress
from openllama_cli.version import __version__

if TYPE_CHECKING:
    from openllama_cli.generation.forward.cache import PrefixCache
    from openllama_cli.generation.forward.transformers_forward import Forward
    from openllama_cli.generation.text.stream import Engine
    from openllama_cli.models.loading.load import LoadedModel

EngineName = Literal["loop", "transformers"]
Notice = Callable[[str], None]


def load_model(
    opened: OpenedModel,
    spec: ModelSpec,
    *,
    one_row: bool = False,
    lean: bool = True,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> "LoadedModel":
    """Load the weights; under torchrun, this rank's part of them. Imports torch and transformers.

    one_row, lean, progress, notice: see `models.loading.load.load`. Raises OlcError.
    """
    if rank_info() is not None:
        from openllama_cli.generation.distributed.load import load_as_leader

        return load_as_leader(opened, spec, progress=progress, notice=notice)
    from openllama_cli.models.loading.load import load

    loaded = load(opened, spec, one_row=one_row, lean=lean, progress=progress, notice=notice)
    from openllama_cli.generation.forward.weights import make_ready

    return make_ready(loaded)


def describe(loaded: "LoadedModel") -> dict[str, Any]:
    """What a result was computed with: the `olc` object of JSON outputs."""
    from importlib.metadata import version

    import torch

    dtype = str(loaded.dtype).removeprefix("torch.")
    return {
        "model": loaded.folder.name,
        "revision": loaded.folder.revision,
        **({"adapters": [adapter.label for adapter in loaded.folder.adapters]} if loaded.folder.adapters else {}),
        "tokenizer_sha256": loaded.tokenizer.sha256,
        # Of the weights. With quantized weights the activations have a dtype of their own.
        "dtype": dtype if loaded.quantized is None else loaded.quantized.method,
        **({} if loaded.quantized is None else {"activation_dtype": dtype}),
        "device": loaded.device,
        "versions": {"olc": __version__, "torch": torch.__version__, "transformers": version("transformers")},
    }


def choose_forward(loaded: "LoadedModel", notice: Notice | None = None) -> "Forward":
    """The fastest forward pass that can run a model. notice: called with what the user should know.

    Over several ranks and for models that are not a plain Llama on one device: transformers' own. Otherwise the lean one, on a
    GPU with CUDA graphs.
    """
    from openllama_cli.generation.distributed.forward import LeaderForward
    from openllama_cli.generation.distributed.load import ShardedModel
    from openllama_cli.generation.forward.cuda.graphs import GraphForward, supports_graphs
    from openllama_cli.generation.forward.lean import LeanForward, supports_lean
    from openllama_cli.generation.forward.transformers_forward import TransformersForward
    from openllama_cli.generation.forward.weights import ReadyModel, from_transformers, make_ready

    loaded = make_ready(loaded)
    if isinstance(loaded, ReadyModel):
        return LeanForward(loaded.weights)
    model = loaded.model
    assert model is not None
    if isinstance(loaded, ShardedModel):
        return LeaderForward(TransformersForward(model, loaded.input_device), loaded.group)
    if supports_graphs(model):
        try:
            return GraphForward(model, notice)
        except RuntimeError as error:  # Out of memory, or private operators of torch that have changed.
            if notice is not None:
                notice(f"CUDA graphs cannot be used here, so decoding is slower: {first_line(error)}")
    if supports_lean(model):
        return LeanForward(from_transformers(model))
    return TransformersForward(model, loaded.input_device)


def make_engine(
    loaded: "LoadedModel",
    name: EngineName = "loop",
    *,
    forward: "Forward | None" = None,
    max_rows: int = 16,
    prefixes: "PrefixCache | None" = None,
    shed: bool = False,
) -> "Engine":
    """The decode loop with a batch size of at most `max_rows`, or `model.generate` row by row.

    forward: for the loop; chosen by `choose_forward` if None. prefixes, shed: see `loop.decode_rows`.
    """
    if name == "transformers":
        from openllama_cli.generation.decode.reference import generate_rows

        assert loaded.model is not None
        return partial(generate_rows, loaded.model, loaded.input_device)
    from openllama_cli.generation.decode.loop import decode_rows

    return partial(decode_rows, forward or choose_forward(loaded), max_rows=max_rows, prefixes=prefixes, shed=shed)


def engines(loaded: "LoadedModel", notice: Notice | None = None) -> "Callable[[int], Engine]":
    """A function from batch size to decode loop. They share one forward pass, which takes a second to make on a GPU.

    When a smaller batch size is asked for, which is after memory ran out, the forward pass is made anew: its KV caches and
    known prefixes fill memory.
    """
    from openllama_cli.generation.forward.cache import PrefixCache
    from openllama_cli.generation.forward.weights import make_ready

    forward: Forward | None = None
    largest = 0

    def make(batch_size: int) -> "Engine":
        nonlocal loaded, forward, largest
        loaded = make_ready(loaded)
        if batch_size < largest:
            forward = None
        forward, largest = forward or choose_forward(loaded, notice), batch_size
        return make_engine(loaded, forward=forward, max_rows=batch_size, prefixes=PrefixCache())

    return make
