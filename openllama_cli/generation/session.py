"""From an opened model to tokens: load its weights, choose a forward pass for them, and run a decode loop on that.

Begin reading here. Importing this module costs no torch; loading does.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from openllama_cli import __version__
from openllama_cli.models.loading.ranks import rank_info
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from openllama_cli.system.progress import Progress

if TYPE_CHECKING:
    from openllama_cli.generation.decode.prefix import PrefixCache
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
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> "LoadedModel":
    """Load the weights; under torchrun, this process's part of them. Imports torch and transformers.

    one_row, progress, notice: see `models.loading.load.load`. Raises OlcError.
    """
    if rank_info() is not None:
        from openllama_cli.generation.distributed.session import load_with_ranks

        return load_with_ranks(opened, spec, progress=progress, notice=notice)
    from openllama_cli.models.loading.load import load

    loaded = load(
        opened.folder,
        spec,
        checkpoint=opened.checkpoint,
        tokenizer=opened.tokenizer,
        one_row=one_row,
        progress=progress,
        notice=notice,
    )
    if loaded.quantized is None:
        return loaded
    from openllama_cli.generation.forward.quantized import prepare

    started = time.perf_counter()
    prepare(loaded.quantized)
    return replace(loaded, load_seconds=loaded.load_seconds + time.perf_counter() - started)


def describe(loaded: "LoadedModel") -> dict[str, Any]:
    """What a result was made with: the `olc` object of JSON outputs."""
    from importlib.metadata import version

    import torch

    dtype = str(loaded.dtype).removeprefix("torch.")
    return {
        "model": loaded.folder.name,
        "revision": loaded.folder.revision,
        "tokenizer_sha256": loaded.tokenizer.sha256,
        # Of the weights. Beside quantized ones the activations have a type of their own.
        "dtype": dtype if loaded.quantized is None else loaded.quantized.method,
        **({} if loaded.quantized is None else {"activation_dtype": dtype}),
        "device": loaded.device,
        "versions": {"olc": __version__, "torch": torch.__version__, "transformers": version("transformers")},
    }


def choose_forward(loaded: "LoadedModel", notice: Notice | None = None) -> "Forward":
    """The lean forward pass where it can run the model, with CUDA graphs where it can; transformers' own elsewhere, with all
    ranks if there are several. notice: told what people should know.
    """
    from openllama_cli.generation.distributed.forward import LeadingForward
    from openllama_cli.generation.distributed.load import ShardedModel
    from openllama_cli.generation.forward.cuda.graphs import GraphForward, suits_graphs
    from openllama_cli.generation.forward.lean import LeanForward, suits
    from openllama_cli.generation.forward.quantized import prepare
    from openllama_cli.generation.forward.transformers_forward import TransformersForward

    if isinstance(loaded, ShardedModel):
        return LeadingForward(TransformersForward(loaded.model, loaded.input_device), loaded.ranks)
    if loaded.quantized is not None:
        return LeanForward(prepare(loaded.quantized))
    if suits_graphs(loaded.model):
        try:
            return GraphForward(loaded.model, notice)
        except RuntimeError as error:  # No memory, or private operators of torch's that do not do what they did.
            if notice is not None:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                notice(f"CUDA graphs cannot be used here, so decoding is slower: {reason}")
    if suits(loaded.model):
        return LeanForward(loaded.model)
    return TransformersForward(loaded.model, loaded.input_device)


def make_engine(
    loaded: "LoadedModel",
    name: EngineName = "loop",
    *,
    forward: "Forward | None" = None,
    max_rows: int = 16,
    prefixes: "PrefixCache | None" = None,
    notice: Notice | None = None,
) -> "Engine":
    """The decode loop over `max_rows` rows at a time, or `model.generate` row by row.

    forward: for the loop. notice: see `choose_forward`.
    """
    from functools import partial

    if name == "transformers":
        from openllama_cli.generation.decode.reference import generate_rows

        return partial(generate_rows, loaded.model, loaded.input_device)
    from openllama_cli.generation.decode.loop import decode_rows

    return partial(decode_rows, forward or choose_forward(loaded, notice), max_rows=max_rows, prefixes=prefixes)


def engines(loaded: "LoadedModel", notice: Notice | None = None) -> "Callable[[int], Engine]":
    """Decode loops for so many rows at a time, one after another, on one forward pass: on a GPU it takes a second to make.

    After memory ran out, when fewer rows are asked for, it is made anew, since its caches and known prefixes fill memory.
    """
    from openllama_cli.generation.decode.prefix import PrefixCache

    forward: Forward | None = None
    most = 0

    def make(rows: int) -> "Engine":
        nonlocal forward, most
        if rows < most:
            forward = None
        forward, most = forward or choose_forward(loaded, notice), rows
        return make_engine(loaded, forward=forward, max_rows=rows, prefixes=PrefixCache())

    return make
