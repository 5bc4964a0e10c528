"""The files of the demo model, the ones that OpenLLaMA ships."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import float16
from transformers import LlamaForCausalLM

BOS, EOS, UNK = "<s>", "</s>", "<unk>"


def write_tokenizer_settings(folder: Path, *, context: int) -> None:
    """tokenizer_config.json and special_tokens_map.json, as OpenLLaMA's: BOS is added, EOS is not, no pad token."""
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    settings: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "pad_token": None,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        **{name: {"__type": "AddedToken", "content": content, **token} for name, content in special.items()},
    }
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", {name: {"content": content, **token} for name, content in special.items()})


def write_model(model: LlamaForCausalLM, folder: Path) -> None:
    """config.json, generation_config.json and model.safetensors, the weights as fp16."""
    config = model.config
    _write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id,
            "hidden_act": config.hidden_act,
            "hidden_size": config.hidden_size,
            "initializer_range": config.initializer_range,
            "intermediate_size": config.intermediate_size,
            "max_position_embeddings": config.max_position_embeddings,
            "model_type": "llama",
            "num_attention_heads": config.num_attention_heads,
            "num_hidden_layers": config.num_hidden_layers,
            "pad_token_id": config.pad_token_id,
            "rms_norm_eps": config.rms_norm_eps,
            "tie_word_embeddings": config.tie_word_embeddings,
            "torch_dtype": "float16",
            "use_cache": True,
            "vocab_size": config.vocab_size,
        },
    )
    special = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **special})
    state = {name: tensor.detach().to(float16).contiguous() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
