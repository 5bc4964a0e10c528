"""Opening a model: found, downloaded if need be, and checked, with its tokenizer, before its weights are loaded.

The way into `models`. Nothing here imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openllama_cli.errors import UsageError
from openllama_cli.models.loading.ranks import check_ranks, rank_info
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.system.progress import Progress

if TYPE_CHECKING:
    from openllama_cli.models.checkpoint.inspect import Checkpoint
    from openllama_cli.models.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class OpenedModel:
    """A model that was found and checked, and its tokenizer; its weights are not loaded and torch is not imported."""

    folder: ModelFolder
    checkpoint: "Checkpoint"
    tokenizer: "Tokenizer"

    @classmethod
    def of(cls, folder: ModelFolder) -> "OpenedModel":
        """The model in a folder. Raises ModelError."""
        from openllama_cli.models.adapters.apply import with_adapters
        from openllama_cli.models.checkpoint.inspect import inspect
        from openllama_cli.models.tokenizer.open import open_tokenizer

        checkpoint = with_adapters(inspect(folder.path), folder.adapters)
        return cls(folder, checkpoint, open_tokenizer(checkpoint.tokenizer_path, config_json=checkpoint.config_json))


def find_model(
    spec: ModelSpec, *, progress: Progress | None = None, notice: Callable[[str], None] | None = None
) -> ModelFolder:
    """Find a model, and download it if it was named and is not here; its files are not looked at.

    progress, notice: told about a download, and about the demo model if that answers because none was chosen. Raises OlcError.
    """
    from openllama_cli.models.find import find
    from openllama_cli.models.hub.environment import check_seconds

    check_seconds()
    if rank_info() is not None:
        refuse_quantized(spec, "torchrun")
    folder = find(spec, progress=progress, notice=notice)
    if folder.chosen_by == "fallback" and notice is not None:
        notice(
            "olc: no model chosen, using the built-in demo (tiny, knows a few hundred facts). "
            "For OpenLLaMA: olc models pull 3b-v2, then -m 3b-v2"
        )
    return folder


def open_model(
    spec: ModelSpec,
    folder: ModelFolder | None = None,
    *,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> OpenedModel:
    """Find a model, download it if it was named and is not here, and check its files.

    Under torchrun also that its processes can share the model. folder: the model, if it was found already. progress, notice:
    told about a download, about the demo model if that answers because none was chosen, about what lies beside a model and is
    not applied, and about what its tokenizer asks for and does not get. Raises OlcError.
    """
    # Not at the top: help and usage errors, which come before, must cost no more than click and rich.
    from openllama_cli.models.adapters.apply import with_adapters
    from openllama_cli.models.beside import not_applied
    from openllama_cli.models.checkpoint.inspect import inspect
    from openllama_cli.models.tokenizer.open import open_tokenizer

    folder = folder or find_model(spec, progress=progress, notice=notice)
    checkpoint = with_adapters(inspect(folder.path), folder.adapters)
    check_ranks(checkpoint.shape, spec, folder.name)
    tokenizer = open_tokenizer(checkpoint.tokenizer_path, config_json=checkpoint.config_json)
    if notice is not None:
        for line in (*not_applied(folder), *(f"olc: {folder.name}: {note}" for note in tokenizer.notes)):
            notice(line)
    return OpenedModel(folder, checkpoint, tokenizer)


def check_context(opened: OpenedModel, prompt_tokens: int, max_tokens: int) -> None:
    """Raise UsageError if prompt and completion together exceed the model's context, or if there is nothing to begin with."""
    context, name = opened.checkpoint.shape.context, opened.folder.name
    if prompt_tokens == 0:
        raise UsageError(
            f"the prompt is empty, and {name} has no BOS token to start from", "give a prompt", code="empty_prompt"
        )
    if prompt_tokens + max_tokens <= context:
        return
    room = context - prompt_tokens
    sum_ = f"; with --max-tokens {max_tokens} that is {prompt_tokens + max_tokens}" if max_tokens else ""

    def shorter_by(count: int) -> str:
        return f"shorten the prompt by at least {count} token{'s' * (count != 1)}"

    if room > 0:
        remedy = f"use --max-tokens {room} or less"
    elif max_tokens + 1 < context:
        remedy = shorter_by(prompt_tokens + max_tokens - context)
    elif context > 2:  # beside so many new tokens no prompt has room
        remedy = f"{shorter_by(1 - room)} and lower --max-tokens to what is then left"
    else:
        remedy = "use a model with a larger context"
    raise UsageError(
        f"the prompt has {prompt_tokens} tokens{sum_}, but {name} has a context of {context}",
        remedy,
        code="context_length_exceeded",
    )


def refuse_quantized(spec: ModelSpec, what: str) -> None:
    """Raise UsageError where quantized weights are asked for together with what runs transformers' own model."""
    if spec.quantize is not None:
        raise UsageError(
            f"{what} uses Transformers' own model, which does not support {spec.quantize} weights",
            f"leave out --quantize {spec.quantize}, or {what}",
        )
