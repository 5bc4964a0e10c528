"""Tiny Llama checkpoints with seeded random weights, in every format olc loads.

`write_tiny_llama` and `write_meta_llama` with the same numbers and seed hold the same model, so that a test can load
both and compare logits. The Meta writer is written from the published Llama `model.py` (which layers are split over
which dimension, and the rotary embedding that pairs neighboring rows), not from olc's reader. torch is imported inside
functions only.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VOCAB = 400
HEAD_DIM = 8

_CORPUS = [
    "Q: What is the largest animal?\nA: The blue whale is the largest animal.",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "def main():\n    for i in range(10):\n        print(i, i * i)\n",
    "Water boils at one hundred degrees; the mountain stands above the clouds.",
    "Die größte Stadt des Landes liegt am Fluss. ¿Dónde está la biblioteca?",
    "hello     world, tabs\tand  double  spaces stay as they are",
]


@functools.cache
def tokenizer_model_bytes() -> bytes:
    """A SentencePiece BPE model with byte fallback that keeps whitespace: VOCAB pieces, unk 0, bos 1, eos 2.

    Trained once a process, in 0.05 s, and the same every time.
    """
    from tests.support.models.sentencepiece_models import IDENTITY, train

    return train(_CORPUS * 4, vocab_size=VOCAB, split_digits=True, **IDENTITY)


def tiny_config(
    *,
    kv_heads: int = 2,
    heads: int = 4,
    vocab: int = VOCAB,
    dtype: str = "float32",
    layers: int = 2,
    context: int = 128,
    hidden: int | None = None,
    intermediate: int = 48,
    tie: bool = False,
) -> dict[str, Any]:
    """A config.json like OpenLLaMA's, with tiny numbers."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": hidden or heads * HEAD_DIM,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": context,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tie,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": vocab,
    }


def tiny_state_dict(config: dict[str, Any], seed: int = 0) -> dict[str, "torch.Tensor"]:
    """Seeded weights under their Hugging Face names, in the config's dtype."""
    import torch

    hidden, vocab, inner = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    head_dim = hidden // config["num_attention_heads"]
    kv = head_dim * config["num_key_value_heads"]
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, config["torch_dtype"])

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 2 / columns**0.5).to(dtype)

    def norm() -> torch.Tensor:
        return (1 + 0.1 * torch.randn(hidden, generator=generator)).to(dtype)

    state = {"model.embed_tokens.weight": matrix(vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        state |= {
            f"model.layers.{layer}.{name}": tensor
            for name, tensor in {
                "self_attn.q_proj.weight": matrix(hidden, hidden),
                "self_attn.k_proj.weight": matrix(kv, hidden),
                "self_attn.v_proj.weight": matrix(kv, hidden),
                "self_attn.o_proj.weight": matrix(hidden, hidden),
                "mlp.gate_proj.weight": matrix(inner, hidden),
                "mlp.up_proj.weight": matrix(inner, hidden),
                "mlp.down_proj.weight": matrix(hidden, inner),
                "input_layernorm.weight": norm(),
                "post_attention_layernorm.weight": norm(),
            }.items()
        }
    state["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        state["lm_head.weight"] = matrix(vocab, hidden)
    return state


def write_tiny_llama(folder: Path, *, seed: int = 0, safe: bool = True, sharded: bool = False, **shape: Any) -> Path:
    """Write a Hugging Face folder and return it.

    safe: model.safetensors, else pytorch_model.bin. sharded: two files and an index. shape: see `tiny_config`.
    """
    config = tiny_config(**shape)
    state = tiny_state_dict(config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    (folder / "tokenizer.model").write_bytes(tokenizer_model_bytes())
    settings = {"add_bos_token": True, "add_eos_token": False, "tokenizer_class": "LlamaTokenizer", "legacy": True}
    _write_json(folder / "tokenizer_config.json", settings)
    stem, suffix = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    if not sharded:
        _save(state, folder / f"{stem}.{suffix}")
        return folder
    names = list(state)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"{stem}-{number:05d}-of-{len(parts):05d}.{suffix}"
        _save({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in state.values())
    _write_json(folder / f"{stem}.{suffix}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    return folder


def write_adapter(folder: Path, base: Path, *, rows: int) -> Path:
    """Write an adapter of a tiny model as peft does, whose embedding and output have more rows, with a tokenizer in which the
    first new token is "<new>"; and return its folder.
    """
    import torch

    folder.mkdir(parents=True)
    hidden = json.loads((base / "config.json").read_text())["hidden_size"]
    _write_json(folder / "adapter_config.json", {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(base)})
    names = ("model.embed_tokens", "lm_head")
    tensors = {f"base_model.model.{name}.weight": torch.full((rows, hidden), 0.01) for name in names}
    _save(tensors, folder / "adapter_model.safetensors")
    (folder / "tokenizer.model").write_bytes(tokenizer_model_bytes())
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False}
    added = {"added_tokens_decoder": {str(VOCAB): {"content": "<new>", **flags}}}
    _write_json(folder / "tokenizer_config.json", added)
    return folder


def change_config(folder: Path, **changes: Any) -> Path:
    """Write other values into config.json; None removes a key. Returns the folder."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    _write_json(file, {key: value for key, value in config.items() if value is not None})
    return folder


def write_meta_llama(
    folder: Path,
    *,
    shards: int = 1,
    seed: int = 0,
    split_vocabulary: bool = False,
    params: dict[str, Any] | None = None,
    **shape: Any,
) -> Path:
    """Write the model of `write_tiny_llama(seed=seed, **shape)` the way Meta released Llama, and return the folder.

    The files are consolidated.NN.pth, params.json and tokenizer.model.

    split_vocabulary: the embedding is split over the vocabulary, as in Llama 3, instead of over the hidden size.
    The files have the constant `rope.freqs` of Llama 1 and 2. params: entries added to params.json.
    """
    import torch

    config = tiny_config(**shape)
    hf = tiny_state_dict(config, seed)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config["hidden_size"] // heads

    def interleave(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
        # Meta rotates the row pairs (0, 1), (2, 3), … of a head; Hugging Face the pairs (0, d/2), (1, d/2 + 1), …
        rows = [
            head * head_dim + pair + half * head_dim // 2
            for head in range(n_heads)
            for pair in range(head_dim // 2)
            for half in (0, 1)
        ]
        return weight[rows]

    whole: dict[str, tuple[torch.Tensor, int | None]] = {  # tensor, and the dimension it is split over
        "tok_embeddings.weight": (hf["model.embed_tokens.weight"], 0 if split_vocabulary else 1),
        "norm.weight": (hf["model.norm.weight"], None),
    }
    if "lm_head.weight" in hf:
        whole["output.weight"] = (hf["lm_head.weight"], 0)
    for n in range(config["num_hidden_layers"]):
        source, target = f"model.layers.{n}", f"layers.{n}"
        whole |= {
            f"{target}.attention.wq.weight": (interleave(hf[f"{source}.self_attn.q_proj.weight"], heads), 0),
            f"{target}.attention.wk.weight": (interleave(hf[f"{source}.self_attn.k_proj.weight"], kv_heads), 0),
            f"{target}.attention.wv.weight": (hf[f"{source}.self_attn.v_proj.weight"], 0),
            f"{target}.attention.wo.weight": (hf[f"{source}.self_attn.o_proj.weight"], 1),
            f"{target}.feed_forward.w1.weight": (hf[f"{source}.mlp.gate_proj.weight"], 0),
            f"{target}.feed_forward.w2.weight": (hf[f"{source}.mlp.down_proj.weight"], 1),
            f"{target}.feed_forward.w3.weight": (hf[f"{source}.mlp.up_proj.weight"], 0),
            f"{target}.attention_norm.weight": (hf[f"{source}.input_layernorm.weight"], None),
            f"{target}.ffn_norm.weight": (hf[f"{source}.post_attention_layernorm.weight"], None),
        }
    whole["rope.freqs"] = (1.0 / 10000.0 ** (torch.arange(0, head_dim, 2) / head_dim), None)

    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(shards):
        shard = {
            name: tensor if dim is None else tensor.chunk(shards, dim)[rank].clone() for name, (tensor, dim) in whole.items()
        }
        torch.save(shard, folder / f"consolidated.{rank:02d}.pth")
    numbers = {
        "dim": config["hidden_size"],
        "multiple_of": 16,
        "n_heads": heads,
        "n_layers": config["num_hidden_layers"],
        "norm_eps": config["rms_norm_eps"],
        "vocab_size": -1,
    }
    if kv_heads != heads:
        numbers["n_kv_heads"] = kv_heads
    _write_json(folder / "params.json", numbers | (params or {}))
    (folder / "tokenizer.model").write_bytes(tokenizer_model_bytes())
    return folder


SHAPE: dict[str, Any] = {"kv_heads": 2, "heads": 4, "layers": 2}
LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

WRITERS: dict[str, Callable[[Path], Path]] = {
    "safetensors": lambda folder: write_tiny_llama(folder, **SHAPE),
    "sharded safetensors": lambda folder: write_tiny_llama(folder, sharded=True, **SHAPE),
    "bin": lambda folder: write_tiny_llama(folder, safe=False, **SHAPE),
    "sharded bin": lambda folder: write_tiny_llama(folder, safe=False, sharded=True, **SHAPE),
    "meta": lambda folder: write_meta_llama(folder, **SHAPE),
    "meta in two files": lambda folder: write_meta_llama(folder, shards=2, **SHAPE),
    "gguf": lambda folder: _write_gguf(folder / "model.gguf"),
}
"""The same model in every format."""


def _write_gguf(file: Path) -> Path:
    from tests.support.models.gguf_files import write_gguf  # It writes what is made here.

    return write_gguf(file, **SHAPE)


def load_llama(folder: Path, dtype: "torch.dtype | None" = None) -> Any:
    """transformers' model of a folder, in float32 or another dtype."""
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32).eval().requires_grad_(False)


def greedy(model: Any, prompt: list[int], count: int = 20, **options: Any) -> list[int]:
    """`count` tokens of `model.generate`."""
    import torch

    ids = torch.tensor([prompt], device=model.device)
    made = model.generate(ids, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0, **options)
    return list(made[0, len(prompt) :].tolist())


def random_llama(**changes: Any) -> Any:
    """A small Llama of transformers with 3 layers and random weights, biases too. changes: of its `LlamaConfig`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, "initializer_range": 0.2, **changes})).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def _save(state: dict[str, "torch.Tensor"], file: Path) -> None:
    import torch
    from safetensors.torch import save_file

    if file.suffix == ".safetensors":
        save_file(state, file, metadata={"format": "pt"})
    else:
        torch.save(state, file)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
