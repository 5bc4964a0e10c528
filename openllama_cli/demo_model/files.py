"""The files of the demo model, the same as OpenLLaMA's: a SentencePiece tokenizer that keeps every space, settings, weights."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from openllama_cli.demo_model.corpus import Corpus

WEIGHTS = Path(__file__).parent / "weights"
BOS, EOS = 1, 2
_SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_CONFIG = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "hidden_size", "intermediate_size", "hidden_act"),
    *("num_hidden_layers", "num_attention_heads", "max_position_embeddings", "rms_norm_eps", "initializer_range"),
    *("model_type", "tie_word_embeddings"),
)


def training_lines(corpus: Corpus) -> Iterator[str]:
    """Every trained text once, one per line. The tokenizer is not trained on held-out texts either."""
    for fact in corpus.facts:
        yield f"A: {fact.answer}"
        for phrasing in fact.of_split("trained"):
            yield f"Q: {phrasing.text}" if phrasing.kind == "question" else phrasing.text + fact.ending
    for unknown in corpus.unknown:
        if not unknown.held_out:
            yield f"Q: {unknown.question}"
    for opening, then in corpus.continuations:
        yield from (opening + then).split("\n")


def train_tokenizer(corpus: Corpus, path: Path, *, vocab_size: int) -> None:
    """Write a `tokenizer.model` to path.

    unk 0, bos 1, eos 2, no pad, digits split, as in OpenLLaMA's. The text is not normalized and no space is dropped. Characters
    beyond the coverage that are not ASCII are read and written as UTF-8 bytes; so are newlines, which no training line has.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=training_lines(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=0.999,
        required_chars="".join(map(chr, range(33, 127))),
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


class PartEncoder:
    """Token ids of the parts of a text."""

    def __init__(self, model: Path) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(model))

    def first(self, text: str) -> list[int]:
        """Ids of a text at the start, with BOS."""
        return [BOS, *self.processor.encode(text)]

    def following(self, text: str) -> list[int]:
        """Ids of a text that follows another one: without BOS and without the space that SentencePiece prepends.

        A newline is always a piece of its own, so what follows one is encoded as in the middle of a text.
        """
        ids: list[int] = self.processor.encode("\n" + text)
        return ids[2:]


def write_settings(folder: Path, *, context: int) -> None:
    """tokenizer_config.json and special_tokens_map.json, as OpenLLaMA's: BOS is added, EOS is not, no pad token."""
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    settings: dict[str, Any] = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "pad_token": None,
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        **{name: {"__type": "AddedToken", "content": content, **token} for name, content in _SPECIAL_TOKENS.items()},
    }
    _write_json(folder / "tokenizer_config.json", settings)
    special = {name: {"content": content, **token} for name, content in _SPECIAL_TOKENS.items()}
    _write_json(folder / "special_tokens_map.json", special)


def write_model(model: LlamaForCausalLM, folder: Path) -> None:
    """config.json, generation_config.json and model.safetensors, the weights in float16."""
    config = {"architectures": ["LlamaForCausalLM"], **{name: getattr(model.config, name) for name in _CONFIG}}
    config |= {"torch_dtype": "float16", "use_cache": True}
    _write_json(folder / "config.json", dict(sorted(config.items())))
    special = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **special})
    state = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
