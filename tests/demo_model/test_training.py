"""Training from end to end on a network small enough to take seconds."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from openllama_cli.demo_model.corpus import load_corpus
from openllama_cli.demo_model.examples import ExampleStream, Part
from openllama_cli.demo_model.files import BOS, EOS, PartEncoder, train_tokenizer
from openllama_cli.demo_model.train import TrainingConfig, batches, to_row, train

TINY = TrainingConfig(steps=6, warmup_steps=2, tokens_per_batch=256, hidden_size=32, intermediate_size=64, layers=1, heads=2)
OPENLLAMA_FILES = {
    *("config.json", "generation_config.json", "model.safetensors"),
    *("special_tokens_map.json", "tokenizer.model", "tokenizer_config.json"),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(load_corpus(), path, vocab_size=2000)
    return PartEncoder(path)


def test_training_writes_a_model_that_loads_and_its_loss_falls(tmp_path):
    losses = train(replace(TINY, steps=30, learning_rate=1e-2), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == OPENLLAMA_FILES
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    model, info = LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.float16
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_same_seed_gives_the_same_losses_and_files(tmp_path):
    first = train(TINY, tmp_path / "first")
    assert train(TINY, tmp_path / "again") == first
    assert train(replace(TINY, seed=2), tmp_path / "other") != first
    for name in OPENLLAMA_FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_parts_encode_to_the_tokens_of_the_whole_text(encoder):
    stream = ExampleStream(load_corpus(), seed=1)
    for _ in range(500):
        parts = stream.draw()
        if parts[-2].text.endswith("A: "):
            continue  # a prompt that ends in a space is cut inside what would be one token
        text = "".join(part.text for part in parts)
        row = to_row(parts, encoder)
        assert row.ids[0] == BOS
        assert row.ids[-1] == EOS
        assert encoder.processor.decode(row.ids[1:-1]) == text
        if parts[-2].text.isascii() and "\n" in text[len(parts[0].text) :]:
            assert row.ids[1:-1] == encoder.processor.encode(text), text


def test_only_the_end_of_an_example_says_what_follows_an_answer(encoder):
    parts = [Part(text, answer=number % 2 == 1) for number, text in enumerate(("Q: a?\nA:", " b.", "\nQ: c?", "\nA: d."))]
    row = to_row(tuple(parts), encoder)
    pieces = [encoder.processor.id_to_piece(i) for i in row.ids]
    newlines = [index for index, piece in enumerate(pieces) if piece == "<0x0A>"]
    assert [row.weights[index] for index in newlines] == [0.1, 0.0, 1.0]
    assert row.weights[-1] == 1.0


def test_batches_hold_whole_rows_with_little_padding(encoder):
    source = batches(ExampleStream(load_corpus(), 1), encoder, tokens=1024, seed=1)
    for _ in range(50):
        ids, weights = next(source)
        assert ids.shape == weights.shape
        assert ids.numel() <= 1024
        assert (ids[:, 0] == BOS).all()
        assert ((ids == EOS).sum(1) == 1).all()
        assert (weights[ids == EOS] == 1).all()
