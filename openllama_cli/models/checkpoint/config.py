"""config.json: is it a Llama that olc can load, and with which numbers?

Only the keys below reach transformers. A config.json is somebody else's data, and others of its keys name code to run,
kernels to fetch or files to read in place of the weights. `config_keys` says what becomes of each key.
"""

from pathlib import Path
from typing import Any

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.config_keys import refuse_keys
from openllama_cli.models.checkpoint.rope import read_rope
from openllama_cli.models.checkpoint.shape import CONFIG_KEYS, LlamaShape
from openllama_cli.models.model_files import brief, damaged, read_object, short

_LARGEST = {"num_hidden_layers": 2_000, "n_layers": 2_000, "max_position_embeddings": 1 << 31}
_FLAGS = ("tie", "attention_bias", "mlp_bias")
# Their weights are a Llama's, whichever of them saved it; LLaMAForCausalLM is the name in the first conversions.
_CLASSES = ("llamaforcausallm", "llamamodel", "optimizedmodule", "peftmodelforcausallm")
_ACTIVATIONS = ("silu", "swish", "relu", "relu2", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


def read_config(folder: Path) -> tuple[dict[str, Any], LlamaShape]:
    """Read and check a folder's config.json; see `check_config`."""
    file = folder / "config.json"
    return check_config(file, read_object(file))


def check_config(file: Path, raw: dict[str, Any]) -> tuple[dict[str, Any], LlamaShape]:
    """The keyword arguments for transformers' LlamaConfig that a config.json (`raw`) holds, and the shape they describe.

    Raises ModelError if it asks for remote code, is not a Llama, is quantized already, or has numbers that make no model.
    """
    _refuse(file, raw)

    def size(field: str, default: int | None = None) -> int:
        return integer(file, raw, CONFIG_KEYS[field], default)

    hidden, intermediate, layers, heads, vocab = map(size, ("hidden", "intermediate", "layers", "heads", "vocab"))
    context = size("context", 2048)  # The defaults are those of transformers' LlamaConfig.
    kv_heads = size("kv_heads", heads)
    if hidden % heads:
        raise _not_built(file, f"{heads} heads, which do not divide the hidden size {hidden}")
    head_dim = size("head_dim", hidden // heads)
    if head_dim % 2:
        raise _not_built(file, f"head size {head_dim}, but rotary embeddings need an even size")
    if heads % kv_heads:
        raise _not_built(file, f"{kv_heads} key/value heads, which do not divide {heads} heads")
    epsilon = positive(file, raw, "rms_norm_eps", 1e-6)
    flags = {field: False if raw.get(CONFIG_KEYS[field]) is None else raw[CONFIG_KEYS[field]] for field in _FLAGS}
    for field, value in flags.items():
        if not isinstance(value, bool):
            raise damaged(file, f"has {CONFIG_KEYS[field]} {short(value)}, which is neither true nor false")
    activation = "silu" if raw.get("hidden_act") is None else raw["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise ModelError(
            f"{file} has the activation {short(activation)}; olc computes {', '.join(_ACTIVATIONS)}",
            "use a Llama with one of these; see `olc models list`",
        )
    refuse_keys(file, raw)
    shape = LlamaShape(hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, context, epsilon, **flags)
    special = {key: raw[key] for key in ("bos_token_id", "eos_token_id") if raw.get(key) is not None}
    return shape.config() | {"hidden_act": activation} | read_rope(file, raw, head_dim) | special, shape


def _not_built(file: Path, why: str) -> ModelError:
    """The error for sizes that are no damage: a Llama of another program may have them."""
    return ModelError(
        f"{file} has {why}: Transformers' Llama cannot be built so",
        "run this model with the program that it was made for, or use another one; see `olc models list`",
        code="unsupported_config",
    )


def _refuse(file: Path, raw: dict[str, Any]) -> None:
    """Raise ModelError for what olc does not load, before looking at any number."""
    if raw.get("auto_map"):
        raise ModelError(
            f"{file} would run code from the model repository (auto_map)",
            "olc never does that: use the model's Llama-format version, or another model",
            code="remote_code",
        )
    kind = raw.get("model_type")
    classes = raw.get("architectures") or ["LlamaForCausalLM"]
    if kind != "llama":
        what = f"describes a {brief(kind)} model, not a Llama" if isinstance(kind, str) else "has no model_type"
        raise ModelError(f"{file} {what}", "olc runs Llama models; see `olc models list`")
    named = classes if isinstance(classes, list) else [classes]
    if not any(isinstance(name, str) and name.lower() in _CLASSES for name in named):
        raise ModelError(
            f"{file} describes {short(classes)}, not a LlamaForCausalLM",
            "use a Llama that predicts the next token; see `olc models list`",
        )
    quantization = raw.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{file} describes weights that are already quantized ({brief(method or 'quantization_config')})",
            "use the model's float16 or bfloat16 version",
        )


def integer(file: Path, raw: dict[str, Any], key: str, default: int | None = None) -> int:
    """A size in a JSON object; the default where it has none, None: it must be there. Raises ModelError for anything else."""
    value = raw.get(key)
    if key == "max_position_embeddings" and key not in raw:
        value = raw.get("max_sequence_length")  # The name in the first conversions of Llama 1.
    if value is None:
        value = default
    if value is None:
        raise damaged(file, f"has no {key}")
    largest = _LARGEST.get(key, 1 << 24)
    if type(value) is not int or not 1 <= value <= largest:
        raise damaged(file, f"has {key} {short(value)}, not a number from 1 to {largest}")
    return value


def positive(file: Path, raw: dict[str, Any], key: str, default: float) -> float:
    """A number above 0 of a JSON object; the default where it has none. Raises ModelError for anything else."""
    value = raw.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not 0 < value < 1e300:
        raise damaged(file, f"has {key} {short(value)}, not a number above 0")
    return float(value)
