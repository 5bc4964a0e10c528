"""Models that transformers has loaded from the same files before: commands that a test runs in this process share them.

Half of the time that a command takes with a tiny model is transformers' loading. What reads the files, checks them and decides
what is loaded, and how, runs each time; tests of loading call `load` itself, or run in a process of their own. Nobody may
change what is shared: a command that does fails the tests after it.
"""

from typing import Any

from openllama_cli.models.checkpoint.inspect import Checkpoint
from openllama_cli.models.loading.from_pretrained import from_pretrained
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.system.progress import Progress

_KEPT = 8
_models: dict[str, Any] = {}


def loaded_once(checkpoint: Checkpoint, tokenizer: Tokenizer, dtype: Any, progress: Progress, **options: Any) -> Any:
    """In place of `from_pretrained`: what it made of unchanged files and the same options, if that is on the CPU."""
    placement = options.get("device_map"), options.get("max_memory"), options.get("cast_first")
    weights = [*checkpoint.files, *(file for adapter in checkpoint.adapters for file in adapter.files)]
    files = [(str(file), (told := file.stat()).st_ino, told.st_size, told.st_mtime_ns) for file in weights]
    special = tokenizer.bos_id, sorted(tokenizer.eos_ids)
    key = repr((files, checkpoint.config, special, checkpoint.adapters, dtype, placement, "state_dict" in options))
    if key in _models:
        progress.advance(checkpoint.tensor_bytes)
        return _models[key]
    model = from_pretrained(checkpoint, tokenizer, dtype, progress, **options)
    if {parameter.device.type for parameter in model.parameters()} == {"cpu"}:
        _models[key] = model
        for old in list(_models)[:-_KEPT]:
            del _models[old]
    return model
