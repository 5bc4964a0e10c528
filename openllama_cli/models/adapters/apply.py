"""A model with adapters: its `Checkpoint`, whose weights are merged as they are read."""

from collections.abc import Sequence
from dataclasses import replace

from openllama_cli.models.adapters import adapter as adapters
from openllama_cli.models.checkpoint.inspect import Checkpoint, tokenizer_files
from openllama_cli.models.checkpoint.stored import TensorInfo
from openllama_cli.models.model_files import TOKENIZERS
from openllama_cli.models.spec import FoundAdapter


def with_adapters(checkpoint: Checkpoint, found: Sequence[FoundAdapter]) -> Checkpoint:
    """The checkpoint with adapters, in order. Headers only: no torch. Raises ModelError for one that does not fit the model."""
    for one in found:
        checkpoint = _with_adapter(checkpoint, one)
    return checkpoint


def brings_tokenizer(found: FoundAdapter) -> bool:
    """Whether a tokenizer was saved with an adapter. It is the model's where the adapter brings rows for new tokens."""
    return any((found.path / name).is_file() for name in TOKENIZERS)


def _with_adapter(checkpoint: Checkpoint, found: FoundAdapter) -> Checkpoint:
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    adapter = adapters.read(found.path, found.name, found.scale, shapes)
    made = replace(checkpoint, adapters=(*checkpoint.adapters, adapter))
    if adapter.rows is None:
        return made
    tensors = dict(checkpoint.tensors)
    for name in (f"{adapters.EMBEDDING}.weight", f"{adapters.HEAD}.weight"):
        if name in tensors:
            tensors[name] = TensorInfo(tensors[name].dtype, (adapter.rows, tensors[name].shape[1]))
    rows = {"vocab_size": adapter.rows}
    # The ids of new tokens are known to a tokenizer that was saved with the adapter.
    has_tokenizer = brings_tokenizer(found)
    return replace(
        made,
        tensors=tensors,
        shape=replace(checkpoint.shape, vocab=adapter.rows),
        config=checkpoint.config | rows,
        config_json=None if checkpoint.config_json is None else checkpoint.config_json | rows,
        tokenizer_path=found.path if has_tokenizer else checkpoint.tokenizer_path,
        tokenizer_files=tokenizer_files(found.path) if has_tokenizer else checkpoint.tokenizer_files,
    )
