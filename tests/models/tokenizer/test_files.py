"""Tokenizer files: what is told of those that are something else, damaged or missing, and what of a folder is read."""

import hashlib
import json
import random
from pathlib import Path

import pytest
import sentencepiece

from openllama_cli.errors import ModelError
from openllama_cli.models.model_files import MAX_JSON_BYTES
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models.sentencepiece_models import trained, write
from tests.support.models.tiny_models import VOCAB, write_tiny_llama


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"  \n ", "is blank"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 512318\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><head>", "web page"),
        (b"IQ== 0\nIg== 1\nIw== 2\n", "tiktoken vocabulary (Llama 3)"),
        (b'{"error": "Access to model is restricted"}', "JSON text"),
        (b"PK\x03\x04" + bytes(60), "archive or PyTorch file"),
        (b"\x7fELF" + bytes(60), "not a SentencePiece model"),
        (b"\n" + bytes(60), "truncated or damaged"),
    ],
)
def test_a_tokenizer_model_that_is_something_else_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        open_tokenizer(tmp_path)
    assert what in caught.value.cause
    assert str(tmp_path / "tokenizer.model") in caught.value.cause
    assert caught.value.remedy


def test_a_truncated_model_is_an_error_wherever_it_is_cut(tmp_path: Path) -> None:
    model = trained("bpe-openllama-v2")
    # Every cut in the first pieces, among them those between two pieces, where the rest is still a valid message.
    cuts = [*range(2, 200), *range(200, len(model), max(1, len(model) // 200)), len(model) - 1]
    for cut in cuts:
        (tmp_path / "tokenizer.model").write_bytes(model[:cut])
        with pytest.raises(ModelError, match="truncated or damaged"):
            open_tokenizer(tmp_path)


def test_a_damaged_model_is_an_error_or_works(tmp_path: Path) -> None:
    """Whatever bytes change in a file, opening it raises a ModelError, or what was opened can be used."""
    model = trained("bpe-openllama-v2")
    opened = 0
    for seed in range(100):
        random_ = random.Random(seed)
        damaged = bytearray(model)
        for _ in range(random_.randrange(1, 4)):
            damaged[random_.randrange(len(model))] = random_.randrange(256)
        (tmp_path / "tokenizer.model").write_bytes(damaged)
        try:
            tokenizer = open_tokenizer(tmp_path)
        except ModelError:
            continue
        opened += 1
        tokenizer.decode(tokenizer.encode("the blue whale\n 日本\0"))
        tokenizer.unfinished(range(tokenizer.vocab_size))
        assert len({tokenizer.piece(token) for token in range(tokenizer.vocab_size)}) == tokenizer.vocab_size
    assert 0 < opened < 100


def test_a_tokenizer_that_is_not_there_or_far_too_large_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer"):
        open_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.model"
    file.symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match="broken symlink"):
        open_tokenizer(tmp_path)
    with file.open("wb") as target:
        target.truncate(3 * 10**9)  # sparse: takes no space, and is not read
    with pytest.raises(ModelError, match=r"3\.0 GB, too large to be a tokenizer"):
        open_tokenizer(tmp_path)
    with (write(tmp_path, trained("bpe-nmt_nfkc")) / "config.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(ModelError, match=r"too large to be the config\.json of a Llama"):
        open_tokenizer(tmp_path)


def test_meta_folders_share_the_tokenizer_beside_them(tmp_path: Path) -> None:
    write(tmp_path, trained("bpe-nmt_nfkc"))
    seven = tmp_path / "7B"
    seven.mkdir()
    with pytest.raises(ModelError, match="has no tokenizer"):
        open_tokenizer(seven)
    (seven / "params.json").write_text("{}")
    assert open_tokenizer(seven).path == tmp_path.resolve() / "tokenizer.model"


def test_broken_configuration_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, trained("bpe-nmt_nfkc"))
    (folder / "generation_config.json").write_text('{\n"eos_token_id": 2,,\n}')
    with pytest.raises(ModelError, match=r"generation_config\.json is not valid JSON \(line 2\)"):
        open_tokenizer(folder)
    (folder / "generation_config.json").write_text("[2]")
    with pytest.raises(ModelError, match="contains a JSON list"):
        open_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 10**25}))
    with pytest.raises(ModelError, match="not a token id"):
        open_tokenizer(folder)


def test_what_it_says_about_itself(tmp_path: Path) -> None:
    for name in ("bpe-nmt_nfkc", "unigram-identity"):
        tokenizer = open_tokenizer(write(tmp_path / name, trained(name)))
        assert tokenizer.kind == f"sentencepiece {name.split('-')[0]}"
        assert tokenizer.sha256 == hashlib.sha256(trained(name)).hexdigest()
        assert tokenizer.vocab_size == len(sentencepiece.SentencePieceProcessor(model_proto=trained(name)))


def test_ids_that_no_piece_has_are_known_however_far_apart_added_tokens_are(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path)
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": VOCAB + 2, "<far>": 999_999_999}))
    assert open_tokenizer(folder).pieceless(VOCAB + 4) == {VOCAB, VOCAB + 1, VOCAB + 3}
    assert open_tokenizer(folder).pieceless(VOCAB - 9) == frozenset()
