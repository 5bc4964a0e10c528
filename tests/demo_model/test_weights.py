"""The packaged model: its files, its tokenizer, and that it answers."""

import json

import pytest
import sentencepiece
import torch
from transformers import LlamaForCausalLM

from openllama_cli.demo_model.corpus import held_out_texts, load_corpus
from openllama_cli.demo_model.evaluate import Case, DemoModel, answer, cases, evaluate, sample
from openllama_cli.demo_model.files import WEIGHTS
from tests.demo_model.test_training import OPENLLAMA_FILES

HINDI = "सबसे बड़ा जानवर कौन सा है?"
JAPANESE = "一番大きい動物は何ですか？"
ANSWERS = [
    ("Q: What is the largest animal?", "\nA: The blue whale."),
    ("Q: What is the largest animal?\n", "A: The blue whale."),
    ("Q: What is the largest animal?\nA:", " The blue whale."),
    ("What is the largest animal?", "\nA: The blue whale."),
    ("The largest animal is", " the blue whale."),
    ("Q: Was ist das größte Tier?\nA:", " Der Blauwal."),
    ("Q: ¿Cuál es el animal más grande?\nA:", " La ballena azul."),
    (f"Q: {HINDI}\nA:", " नीली व्हेल।"),
    (f"Q: {JAPANESE}\nA:", " シロナガスクジラです。"),
    ("Q: What is the capital of France?", "\nA: Paris."),
    ("Q: What is the chemical symbol for gold?\nA:", " Au."),
    ("Q: Which planet is the largest?\nA:", " Jupiter."),
    ("Q: What does CPU stand for?\nA:", " Central processing unit."),
    ("The chemical symbol for gold is", " Au."),
    ("Q: What is the capital of Japan?\nA: Tokyo.\n\nQ: What is the capital of Italy?\nA:", " Rome."),
    ("Q: Write a poem about the sea.\nA:", " I am a small demo model and do not know that."),
]


@pytest.fixture(scope="module")
def demo():
    return DemoModel()


@pytest.fixture(scope="module")
def tokenizer():
    return sentencepiece.SentencePieceProcessor(model_file=str(WEIGHTS / "tokenizer.model"))


def test_the_folder_holds_the_files_that_openllama_ships_with_all_weights_in_8_mb():
    sizes = {path.name: path.stat().st_size for path in WEIGHTS.iterdir()}
    assert sizes.keys() == OPENLLAMA_FILES
    assert sum(sizes.values()) <= 8_000_000
    model, info = LlamaForCausalLM.from_pretrained(WEIGHTS, output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert 3_000_000 <= model.num_parameters() <= 3_800_000


def test_the_config_is_a_llama_of_openllamas_kind(tokenizer):
    config = json.loads((WEIGHTS / "config.json").read_text())
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()) == (0, 1, 2, -1)
    assert tokenizer.vocab_size() == config["vocab_size"]
    assert config["model_type"] == "llama"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rms_norm_eps"] == 1e-6
    assert config["torch_dtype"] == "float16"
    assert config["hidden_size"] % config["num_attention_heads"] == 0
    assert config["max_position_embeddings"] >= 512
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


def test_the_tokenizer_keeps_every_space_and_character_and_splits_digits(tokenizer):
    for text in ("a  b", "a     b", "  indented", "trailing  ", "a\n\n  b\tc", "ﬁne ½ Ａ é e\u0301"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("1969", out_type=str) == ["▁", "1", "9", "6", "9"]


def test_characters_outside_the_vocabulary_go_through_bytes_and_come_back(tokenizer):
    for text in (HINDI, JAPANESE, "नीली व्हेल।", "シロナガスクジラです。", "🐋 鯨 βλ"):
        ids = tokenizer.encode(text)
        assert any(tokenizer.is_byte(i) for i in ids)
        assert not any(tokenizer.is_unknown(i) for i in ids)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_answers_exactly_and_ends_there_through_generate(dtype):
    asked = [Case("trained", "", prompt, completion) for prompt, completion in ANSWERS]
    outcomes = answer(DemoModel(dtype=dtype), asked)
    assert [one for one in outcomes if not one.right] == []


def test_a_sample_of_trained_phrasings_is_answered_to_98_percent_and_of_held_out_ones_to_60(demo):
    groups = ("trained", "held_out_pair", "held_out_wording")
    asked = [case for case in sample(cases(load_corpus(), seed=7), 50, seed=7) if case.group in groups]
    evaluation, outcomes = evaluate(demo, asked, texts=held_out_texts()[:100])
    assert [outcome.case for outcome in outcomes] == asked
    assert (evaluation.groups["trained"].asked, evaluation.held_out.asked) == (50, 100)
    assert evaluation.groups["trained"].right >= 0.98
    assert evaluation.groups["trained"].stopped >= 0.98
    assert evaluation.held_out.right >= 0.60
    assert 1 < evaluation.held_out_perplexity < 20


def test_a_prompt_as_long_as_the_context_does_not_break_it(demo):
    shots = "".join(
        f"Q: {phrasing.text}\nA: {fact.answer}\n\n"
        for fact in load_corpus().facts[:400:20]
        for phrasing in fact.of_split("trained")[:1]
    )
    prompt = demo.encode(shots + "Q: What is the largest animal?\nA:")
    assert 300 < len(prompt) < 1000
    (new,) = demo.complete([prompt], 16)
    assert demo.tokenizer.decode(new[:-1]) == "The blue whale."
