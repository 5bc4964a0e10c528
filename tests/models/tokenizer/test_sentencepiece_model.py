"""The tokenizer against the SentencePiece library, on models trained here with every kind of normalizer."""

import os
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from openllama_cli.errors import ModelError, UsageError
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.files import surroundings
from openllama_cli.models.tokenizer.open import open_tokenizer
from openllama_cli.models.tokenizer.sentencepiece_model import SentencePieceTokenizer
from tests.support.models.sentencepiece_models import VARIANTS, train, trained, write
from tests.support.models.tokenizer_files import save


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Any]]:
    """Variant → (our tokenizer, the library's)."""
    found = {}
    for name in VARIANTS:
        folder = write(tmp_path_factory.mktemp(name), trained(name))
        library = sentencepiece.SentencePieceProcessor(model_proto=trained(name))
        found[name] = (open_tokenizer(folder), library)
    return found


SPACES = [" ", "  ", "    ", "\n", "\t", "\r\n", "\0", "▁", "\u3000", "\u200b", "\ufeff"]
SPECIAL = ["<s>", "</s>", "<unk>", "<0x0A>", "<sep>", "\ufffd"]
WORDS = ["the", "whale", "10,000", "é", "e\u0301", "ﬁ", "Ｆ", "①", "İ", "ß", "日本", "हिन्दी", "👩\u200d👩\u200d👧", "🏳️\u200d🌈"]
fragments = st.sampled_from([*SPACES, *SPECIAL, *WORDS])
texts = st.lists(st.one_of(fragments, st.text(max_size=8)), max_size=12).map("".join)


@pytest.mark.parametrize("variant", VARIANTS)
@given(text=texts)
@settings(max_examples=20)
def test_encodes_and_decodes_as_the_library(variant: str, text: str, pairs: dict[str, tuple[Tokenizer, Any]]) -> None:
    ours, library = pairs[variant]
    ids = library.encode(text)
    assert ours.encode(text, bos=False) == ids
    assert ours.encode(text) == [library.bos_id(), *ids]
    assert ours.decode(ids) == library.decode(ids)
    assert [ours.piece(token) for token in ids] == [library.id_to_piece(token) for token in ids]


@pytest.mark.parametrize("variant", VARIANTS)
@given(data=st.data())
@settings(max_examples=20)
def test_a_continuation_joins_into_the_whole(
    variant: str, data: st.DataObject, pairs: dict[str, tuple[Tokenizer, Any]]
) -> None:
    ours, library = pairs[variant]
    # Any ids, but bytes and special tokens more often than their share: they are where joining goes wrong.
    anything = st.lists(st.one_of(st.integers(0, 8), st.integers(0, ours.vocab_size - 1), st.integers(0xC0, 260)))
    written = texts.map(lambda text: ours.encode(text))
    ids = data.draw(st.one_of(anything.filter(lambda ids: all(i < ours.vocab_size for i in ids)), written))
    cut = data.draw(st.integers(0, len(ids)))
    prefix, rest = ids[:cut], ids[cut:]
    certain = ours.decode(prefix)[: len(ours.decode(prefix)) - ours.unfinished(prefix)]
    assert certain + ours.decode_continuation(prefix, rest) == library.decode(ids)


@pytest.mark.parametrize("variant", VARIANTS)
@given(text=texts)
@settings(max_examples=15)
def test_text_pushed_one_token_at_a_time_joins_into_the_whole(
    variant: str, text: str, pairs: dict[str, tuple[Tokenizer, Any]]
) -> None:
    ours, library = pairs[variant]
    ids = ours.encode(text)
    shown = ""
    for place, token in enumerate(ids):
        text = ours.decode_continuation(ids[:place], [token])
        waiting = ours.unfinished(ids[: place + 1])
        assert text[len(text) - waiting :] == "\ufffd" * waiting
        shown += text[: len(text) - waiting]
        assert library.decode(ids).startswith(shown)
    assert shown + "\ufffd" * ours.unfinished(ids) == library.decode(ids)


def test_a_continuation_costs_the_same_after_a_long_prompt(tmp_path: Path) -> None:
    lengths = []

    class Counting(SentencePieceTokenizer):
        def decode(self, ids: Any) -> str:
            lengths.append(len(ids))
            return super().decode(ids)

    folder = write(tmp_path, trained("bpe-openllama-v2"))
    file = folder / "tokenizer.model"
    tokenizer = Counting(file, file.read_bytes(), surroundings(folder, None))
    prompt = tokenizer.encode("the largest animal is the blue whale\n" * 200)
    whale = tokenizer.encode(" whale", bos=False)
    lengths.clear()
    assert tokenizer.decode_continuation(prompt, whale) == tokenizer.decode(prompt + whale)[len(tokenizer.decode(prompt)) :]
    assert max(lengths[:-2]) <= 8 + len(whale)


def test_a_denormalizing_model_decodes_as_the_library(tmp_path: Path) -> None:
    rules = tmp_path / "rules.tsv"
    rules.write_text("77 68 61 6C 65\t57 48 41 4C 45\n", encoding="utf-8")  # "whale" is written "WHALE"
    model = train(denormalization_rule_tsv=str(rules))
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = open_tokenizer(write(tmp_path / "model", model))
    ids = ours.encode("the blue whale")
    assert ours.decode(ids) == library.decode(ids) == "the blue WHALE"
    assert ours.decode(ids[:3]) + ours.decode_continuation(ids[:3], ids[3:]) == "the blue WHALE"


# -- BOS, EOS and special tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config": {"add_bos_token": True, "bos_token": "<s>", "tokenizer_class": "LlamaTokenizer"}},
        {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer"}},
        {"special_tokens_map": {"bos_token": {"content": "<s>"}}},
    ],
)
def test_exactly_one_bos(tmp_path: Path, files: dict[str, Any]) -> None:
    tokenizer = open_tokenizer(write(tmp_path, trained("bpe-nmt_nfkc"), **files))
    for text in ("hello", "", " hello", "<s>", "<s> hello", "\n"):
        ids = tokenizer.encode(text)
        assert ids[0] == tokenizer.bos_id == 1
        assert ids.count(1) == 1
        assert 1 not in tokenizer.encode(text, bos=False)
    without = open_tokenizer(write(tmp_path, train(bos_id=-1)))
    assert without.bos_id is None
    assert without.encode("whale") == without.encode("whale", bos=False)


def test_special_tokens_have_no_text_and_in_text_they_are_text(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(write(tmp_path, trained("bpe-openllama-v2")))
    ids = tokenizer.encode("<s></s><unk><0x0A>")
    assert not {0, 2} & set(ids[1:])
    assert tokenizer.decode(ids) == "<s></s><unk><0x0A>"
    assert tokenizer.special_ids == {1, 2}
    assert tokenizer.decode([1, *tokenizer.encode("whale", bos=False), 2]) == "whale"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {2}),
        ({"config": {"eos_token_id": 2}}, {2}),
        ({"generation_config": {"eos_token_id": [7, 8]}}, {2, 7, 8}),
        ({"config": {"eos_token_id": 9}, "generation_config": {"eos_token_id": None}}, {2, 9}),
    ],
)
def test_eos_ids_come_from_the_model_and_its_configuration(tmp_path: Path, files: dict[str, Any], expected: set[int]) -> None:
    assert open_tokenizer(write(tmp_path, trained("bpe-nmt_nfkc"), **files)).eos_ids == expected


def test_an_eos_that_is_no_id_is_named(tmp_path: Path) -> None:
    for wrong in ("2", True, -1, 2.0, [2, "x"]):
        folder = write(tmp_path, trained("bpe-nmt_nfkc"), generation_config={"eos_token_id": wrong})
        with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id"):
            open_tokenizer(folder)


@pytest.mark.parametrize("kind", ["added_tokens.json", "added_tokens_decoder", "beside tokenizer.json"])
def test_added_tokens_beyond_the_embedding_are_told(tmp_path: Path, kind: str) -> None:
    decoder = {"1000": {"content": "<tool>"}, "1001": {"content": "<pad>", "special": True}}
    numbered, model, config = {"<here>": 420, "<tool>": 1000, "<pad>": 1001}, trained("bpe-openllama-v2"), {"vocab_size": 1000}
    if kind == "beside tokenizer.json":
        folder = save(tmp_path, added_tokens_decoder=decoder)
    elif kind == "added_tokens.json":
        folder = write(tmp_path, model, config=config, added_tokens=numbered, special_tokens_map={"pad_token": "<pad>"})
    else:
        folder = write(tmp_path, model, config=config, tokenizer_config={"added_tokens_decoder": decoder})
    [note] = open_tokenizer(folder).notes
    assert note == "added tokens whose ids are beyond the model's 1000 embeddings stay plain text: '<tool>' (1000)"


def test_special_added_tokens_have_names_and_no_text(tmp_path: Path) -> None:
    added = {"2": {"content": "</s>", "special": True}, "421": {"content": "<|im_end|>", "special": True}}
    folder = write(
        tmp_path,
        trained("bpe-nmt_nfkc"),
        added_tokens={"<pad>": 420},
        tokenizer_config={"added_tokens_decoder": added},
        generation_config={"eos_token_id": 421},
    )
    tokenizer = open_tokenizer(folder)
    whale = tokenizer.encode("whale")
    assert tokenizer.vocab_size == 422
    assert tokenizer.piece(421) == "<|im_end|>"
    assert tokenizer.piece(420) == "<pad>"
    assert tokenizer.decode([*whale, 421, 420]) == "whale"
    assert 421 not in tokenizer.encode("<|im_end|>")
    assert tokenizer.eos_ids == {2, 421}
    with pytest.raises(ModelError, match="token id 422 "):
        tokenizer.decode([422])


# -- ids and text that cannot be used -----------------------------------------------------------------------------


def test_ids_outside_the_vocabulary_and_text_that_is_not_utf8_are_named(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(write(tmp_path, trained("bpe-nmt_nfkc")))
    for token in (-1, 420, 10**6, 2**40):
        for attempt in (lambda ids: tokenizer.decode([5, *ids]), lambda ids: tokenizer.piece(*ids)):
            with pytest.raises(ModelError, match=f"token id {token} ") as caught:
                attempt([token])
            assert "0 to 419" in caught.value.cause
            assert caught.value.code == "token_id_out_of_range"
    with pytest.raises(UsageError, match="0xE9 at character 4"):
        tokenizer.encode(os.fsdecode(b"caf\xe9"))
    with pytest.raises(UsageError, match=r"U\+D800 at character 1"):
        tokenizer.encode("\ud800")


# -- the published files --------------------------------------------------------------------------------------------

V1 = {"thermal": [1, 14412], "tasks": [1, 8931], "hello     world": [1, 27701, 924], "hello\nworld": [1, 27701, 13, 7904]}
VECTORS = {
    "openlm-research/open_llama_3b": V1,
    "openlm-research/open_llama_7b": V1 | {"a    b": [1, 260, 284]},
    "openlm-research/open_llama_13b": V1,
}


@pytest.mark.parametrize("repo", VECTORS)
def test_published_openllama_vectors(repo: str) -> None:
    tokenizer = open_tokenizer(published(repo))
    assert {text: tokenizer.encode(text) for text in VECTORS[repo]} == VECTORS[repo]


def published(repo: str) -> Path:
    """The tokenizer.model of a repository: from OLC_TEST_TOKENIZERS, else from the Hub's cache on this machine."""
    name = repo.split("/")[1]
    if "OLC_TEST_TOKENIZERS" in os.environ:
        file = Path(os.environ["OLC_TEST_TOKENIZERS"]) / name / "tokenizer.model"
        if file.is_file():
            return file
    from huggingface_hub import try_to_load_from_cache

    # The user's cache, by name: the tests' own HF_HOME is an empty one.
    cached = try_to_load_from_cache(repo, "tokenizer.model", cache_dir=Path.home() / ".cache" / "huggingface" / "hub")
    if isinstance(cached, str):
        return Path(cached)
    pytest.skip(f"{repo} is not here: `hf download {repo} tokenizer.model`, or OLC_TEST_TOKENIZERS=FOLDER with {name}/ in it")
