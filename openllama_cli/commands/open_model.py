"""From model options to a model, in two halves: what can be checked without torch, and loading."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from openllama_cli import __version__
from openllama_cli.errors import UsageError
from openllama_cli.models.parallel import check_ranks, place
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import note, notice

if TYPE_CHECKING:
    from openllama_cli.models.checkpoint import Checkpoint
    from openllama_cli.models.find import ModelFolder
    from openllama_cli.models.load import LoadedModel
    from openllama_cli.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class OpenedModel:
    """A model that was found and checked, and its tokenizer; its weights are not loaded and torch is not imported."""

    folder: "ModelFolder"
    checkpoint: "Checkpoint"
    tokenizer: "Tokenizer"


def open_model(spec: ModelSpec) -> OpenedModel:
    """Find a model, download it if it was named and is not here, and check its files.

    Under torchrun also that its processes can share the model. Raises OlcError.

    Says on stderr when the demo model answers because none was chosen.
    """
    # Not at the top: help and usage errors, which come before, shall cost no more than click and rich.
    from openllama_cli.models.checkpoint import inspect
    from openllama_cli.models.find import find
    from openllama_cli.models.tokenizer import open_tokenizer
    from openllama_cli.terminal.progress import TerminalProgress

    if place() is not None:
        refuse_quantised(spec, "torchrun")
    progress = TerminalProgress()
    try:
        folder = find(spec, progress=progress, notice=notice)
    finally:
        progress.finish()
    if folder.chosen_by == "fallback":
        notice(
            "olc: no model chosen, so the built-in demo answers (tiny, knows a few hundred facts). "
            "For OpenLLaMA: olc models pull 3b-v2, then -m 3b-v2"
        )
    checkpoint = inspect(folder.path)
    check_ranks(checkpoint.shape, spec, folder.name)
    return OpenedModel(folder, checkpoint, open_tokenizer(folder.path))


def check_context(opened: OpenedModel, prompt_tokens: int, max_tokens: int) -> None:
    """Raise UsageError if prompt and completion together exceed the model's context, or if there is nothing to begin with."""
    context, name = opened.checkpoint.shape.context, opened.folder.name
    if prompt_tokens == 0:
        raise UsageError(
            f"the prompt is empty, and {name} has no BOS token to begin a text with", "give a prompt", code="empty_prompt"
        )
    if prompt_tokens + max_tokens <= context:
        return
    room = context - prompt_tokens
    sum_ = f"; with --max-tokens {max_tokens} that is {prompt_tokens + max_tokens}" if max_tokens else ""
    needed = prompt_tokens + max_tokens - context
    raise UsageError(
        f"the prompt has {prompt_tokens} tokens{sum_}, and {name} has a context of {context}",
        f"give --max-tokens {room} or fewer" if room > 0 else f"shorten the prompt by at least {needed} tokens",
        code="context_length_exceeded",
    )


def load_model(opened: OpenedModel, spec: ModelSpec, *, one_row: bool = False) -> "LoadedModel":
    """Load the weights, with a progress bar on stderr, under torchrun this process's part of them.

    Imports torch and transformers. one_row: see `models.load.load`.
    """
    if place() is not None:
        from openllama_cli.commands.torchrun import load_with_ranks

        return load_with_ranks(opened, spec)
    from openllama_cli.models.load import load
    from openllama_cli.terminal.progress import TerminalProgress

    progress = TerminalProgress()
    try:
        loaded = load(
            opened.folder,
            spec,
            checkpoint=opened.checkpoint,
            tokenizer=opened.tokenizer,
            one_row=one_row,
            progress=progress,
            notice=note,
        )
    finally:
        progress.finish()
    return loaded if loaded.quantised is None else _prepared(loaded)


def _prepared(loaded: "LoadedModel") -> "LoadedModel":
    """Quantised weights made ready for products: a part of loading that models cannot do without generation."""
    from openllama_cli.generation.quantised import prepare

    started = time.perf_counter()
    assert loaded.quantised is not None
    prepare(loaded.quantised)
    return replace(loaded, load_seconds=loaded.load_seconds + time.perf_counter() - started)


def refuse_quantised(spec: ModelSpec, what: str) -> None:
    """Raise UsageError where quantised weights are asked for together with what runs transformers' own model."""
    if spec.quantize is not None:
        raise UsageError(
            f"{what} runs transformers' own model, which has no {spec.quantize} weights",
            f"leave out --quantize {spec.quantize}, or {what}",
        )


def describe(loaded: "LoadedModel") -> dict[str, Any]:
    """What a result was made with: the `olc` object of JSON outputs."""
    from importlib.metadata import version

    import torch

    dtype = str(loaded.dtype).removeprefix("torch.")
    return {
        "model": loaded.folder.name,
        "revision": loaded.folder.revision,
        "tokenizer_sha256": loaded.tokenizer.sha256,
        # Of the weights. Beside quantised ones the activations have a type of their own.
        "dtype": dtype if loaded.quantised is None else loaded.quantised.method,
        **({} if loaded.quantised is None else {"activation_dtype": dtype}),
        "device": loaded.device,
        "versions": {"olc": __version__, "torch": torch.__version__, "transformers": version("transformers")},
    }
