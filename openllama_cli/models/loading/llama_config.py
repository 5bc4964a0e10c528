"""transformers' configuration of a checkpoint. Imports transformers when it is called."""

import copy
from typing import TYPE_CHECKING

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.inspect import Checkpoint

if TYPE_CHECKING:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


def llama_config(checkpoint: Checkpoint) -> "tuple[LlamaConfig, LlamaRotaryEmbedding]":
    """transformers' configuration, from the checked keys of config.json only, and the rotary embedding that follows from it.

    Raises ModelError where transformers refuses them.
    """
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    from openllama_cli.system.quiet import quiet_transformers

    try:
        with quiet_transformers():
            # A copy: transformers completes the rope parameters in place.
            config = transformers.LlamaConfig(**copy.deepcopy(checkpoint.config))
            return config, LlamaRotaryEmbedding(config)
    except Exception as error:  # Of many kinds: numbers that transformers refuses, and ones that it then divides by.
        reason = (str(error).strip("'\"").splitlines() or [type(error).__name__])[-1].strip()
        file = checkpoint.config_file
        raise ModelError(
            f"{file} is rejected by Transformers {transformers.__version__}: {reason}",
            f"correct {file.name} as the model's authors publish it, or use another model",
        ) from error
