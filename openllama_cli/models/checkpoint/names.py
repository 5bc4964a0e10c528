"""Which weight of a Llama a stored name means, as transformers decides it, and what other names say of their origin."""

from collections.abc import Collection, Iterable

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import brief

# The output matrix: the one weight that is no part of LlamaModel.
HEAD = "lm_head.weight"
_PREFIX = "model."
# What programs that wrap a model put in front of its weights' names, and how weights are saved without it.
_WRAPPERS = {
    "_checkpoint_wrapped_module.": ("activation checkpointing", "save the weights without it"),
    "_fsdp_wrapped_module.": ("FSDP", "gather them with StateDictType.FULL_STATE_DICT before saving"),
    "_orig_mod.": ("torch.compile", "save them with model._orig_mod.save_pretrained(FOLDER)"),
    "_forward_module.": ("Lightning", "save them with model.module.save_pretrained(FOLDER)"),
    "base_model.model.": ("PEFT", "save them with model.merge_and_unload().save_pretrained(FOLDER)"),
    "module.": ("DataParallel or DeepSpeed", "save them with model.module.save_pretrained(FOLDER)"),
}


def llama_names(stored: Iterable[str], expected: Collection[str]) -> dict[str, str]:
    """Each stored name, and the weight that transformers takes it for: `rename_source_key` in its core_model_loading.

    A name may lack "model." in front, as a bare LlamaModel saves it, or have one too many. expected: the names of all weights,
    the output matrix among them. What is none of these keeps its name.
    """
    named = {}
    for name in stored:
        shorter = name.removeprefix(_PREFIX)
        if shorter != name and shorter in expected:
            named[name] = shorter
        elif _PREFIX + name in expected:
            named[name] = _PREFIX + name
        else:
            named[name] = name
    return named


def refuse_wrapped(where: str, stored: Collection[str], expected: Collection[str]) -> None:
    """Raise ModelError if the names would be a Llama's without what some program put in front of them."""

    def known(names: Iterable[str]) -> int:
        return sum(name in expected for name in llama_names(names, expected).values())

    now = known(stored)
    if 2 * now >= len(expected):
        return
    for wrapper, (program, remedy) in _WRAPPERS.items():
        plain = [name.replace(wrapper, "") for name in stored if wrapper in name]
        if known(plain) > max(now, len(expected) // 2):
            raise ModelError(
                f"{where}: the names of the weights have the prefix {wrapper!r}, which {program} adds",
                f"{remedy}, or rename them without it",
            )
    ending = "embed_tokens.weight"
    prefixes = {name.removesuffix(ending).removesuffix(_PREFIX) for name in stored if name.endswith(ending)}
    for prefix in sorted(prefixes - {""}):
        if known(name.removeprefix(prefix) for name in stored if name.startswith(prefix)) > max(now, len(expected) // 2):
            raise ModelError(
                f"{where}: the names of the weights have the prefix {brief(prefix)!r}, which a Llama's do not have",
                "rename them without it, or use the language model's own checkpoint",
            )
