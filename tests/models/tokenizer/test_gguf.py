"""Tokenizers in GGUF files: the ids of the tokenizer that the file was made of, on every kind of text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import sentencepiece
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.convert import convert
from openllama_cli.models.tokenizer.compare import FIXED_TEXTS
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models.gguf_files import add_sentencepiece, write_gguf
from tests.support.models.sentencepiece_models import CORPUS, IDENTITY, train, trained, write
from tests.support.models.tiny_models import VOCAB, tokenizer_model_bytes, write_tiny_llama

TEXTS = [*FIXED_TEXTS.values(), *CORPUS[:7], "", "<sep>a<sep>  b", "a\u2581\u2581b   c"]


def with_tokenizer(file: Path, tokenizer: Any) -> Path:
    return write_gguf(file, tokenizer=tokenizer, layers=1, vocab=600)


@pytest.mark.parametrize(
    ("training", "settings"),
    [
        (IDENTITY, {}),
        ({**IDENTITY, "add_dummy_prefix": False}, {"add_space_prefix": False}),
        ({**IDENTITY, "remove_extra_whitespaces": True}, {"remove_extra_whitespaces": True}),
        ({**IDENTITY, "byte_fallback": False}, {}),
    ],
)
def test_ids_are_those_of_the_sentencepiece_model(tmp_path: Path, training: dict[str, Any], settings: dict[str, Any]) -> None:
    model = train(**training)
    original = open_tokenizer(write(tmp_path / "folder", model))
    rebuilt = open_tokenizer(with_tokenizer(tmp_path / "x.gguf", lambda writer: add_sentencepiece(writer, model, **settings)))
    for text in TEXTS:
        ids = original.encode(text)
        assert rebuilt.encode(text) == ids, text
        assert rebuilt.decode(ids) == original.decode(ids)
        assert [rebuilt.text(token) for token in ids] == [original.text(token) for token in ids]
    assert (rebuilt.bos_id, rebuilt.eos_ids, rebuilt.unk_id) == (original.bos_id, original.eos_ids, original.unk_id)
    assert (rebuilt.special_ids, rebuilt.vocab_size, rebuilt.kind) == (
        original.special_ids,
        original.vocab_size,
        original.kind,
    )


def test_pieces_that_a_user_defined_are_found_in_text(tmp_path: Path) -> None:
    model = train(**IDENTITY, user_defined_symbols=["<sep>", "    "])
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    user = [token for token in range(processor.get_piece_size()) if processor.id_to_piece(token) in ("<sep>", "    ")]

    def add(writer: gguf.GGUFWriter) -> None:
        add_sentencepiece(writer, model)
        types = [int(value) for value in writer.kv_data[-1]["tokenizer.ggml.token_type"].value]
        for token in user:
            types[token] = int(gguf.TokenType.USER_DEFINED)
        writer.kv_data[-1]["tokenizer.ggml.token_type"].value = types

    rebuilt = open_tokenizer(with_tokenizer(tmp_path / "x.gguf", add))
    original = open_tokenizer(write(tmp_path / "folder", model))
    assert [rebuilt.encode(text) for text in TEXTS] == [original.encode(text) for text in TEXTS]


def test_tokens_that_were_added_are_found_as_in_the_folder(tmp_path: Path) -> None:
    model, added = tokenizer_model_bytes(), {VOCAB: "<new>", VOCAB + 1: "<end>", VOCAB + 2: "  xx"}
    folder = write_tiny_llama(tmp_path / "folder", vocab=VOCAB + 3)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    decoder = {str(token): {"content": text, **flags, "special": text == "<end>"} for token, text in added.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"legacy": True, "added_tokens_decoder": decoder}))

    def add(writer: gguf.GGUFWriter) -> None:
        """As `_set_vocab_sentencepiece` adds them."""
        add_sentencepiece(writer, model)
        lists = writer.kv_data[-1]
        lists["tokenizer.ggml.tokens"].value += [text.encode() for text in added.values()]
        lists["tokenizer.ggml.scores"].value += [-1000.0] * len(added)
        kinds = (gguf.TokenType.USER_DEFINED, gguf.TokenType.CONTROL)
        lists["tokenizer.ggml.token_type"].value += [int(kinds[text == "<end>"]) for text in added.values()]
        for name in ("bos", "eos", "unknown"):  # The usual ones need no name.
            del lists[f"tokenizer.ggml.{name}_token_id"]

    original = open_tokenizer(folder)
    file = write_gguf(tmp_path / "x.gguf", tokenizer=add, vocab=VOCAB + 3)
    convert(file, tmp_path / "converted")
    for rebuilt in (open_tokenizer(file), open_tokenizer(tmp_path / "converted")):
        for text in [*TEXTS, "<new>", "a<new>", "a <new> b", "<new>b<new>", "a<end>b", "x  xx y", "q <new>  xx."]:
            ids = original.encode(text)
            assert rebuilt.encode(text) == ids, text
            assert rebuilt.decode(ids) == original.decode(ids)
        assert (rebuilt.bos_id, rebuilt.eos_ids, rebuilt.unk_id) == (1, {2}, 0)
        assert rebuilt.special_ids == original.special_ids


def test_a_unigram_model_keeps_its_table_of_characters(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = trained("unigram-nmt_nfkc")
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)

    def add(writer: gguf.GGUFWriter) -> None:
        add_sentencepiece(writer, model, precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap)
        writer.add_remove_extra_whitespaces(True)
        writer.add_add_bos_token(True)
        writer.kv_data[-1]["tokenizer.ggml.model"].value = "t5"

    rebuilt = open_tokenizer(with_tokenizer(tmp_path / "x.gguf", add))
    original = open_tokenizer(write(tmp_path / "folder", model))
    assert rebuilt.kind == original.kind == "sentencepiece unigram"
    assert [rebuilt.encode(text) for text in TEXTS] == [original.encode(text) for text in TEXTS]


def test_bos_is_as_the_file_says(tmp_path: Path) -> None:
    model = trained("bpe-openllama-v2")
    for said in (True, False):
        file = with_tokenizer(
            tmp_path / "x.gguf", lambda writer, said=said: add_sentencepiece(writer, model, add_bos_token=said)
        )
        assert open_tokenizer(file).bos_id == (1 if said else None)


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_level(pre: Any, *, whole_words: bool) -> Library:
    """A byte-level BPE, trained here."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=sorted(alphabet), show_progress=False)
    library.train_from_iterator(CORPUS, trainer)
    library.model.ignore_merges = whole_words
    library.add_special_tokens([AddedToken("<|begin_of_text|>", special=True), AddedToken("<|end_of_text|>", special=True)])
    return library


def add_byte_level(library: Library, pre: str | None) -> Callable[[gguf.GGUFWriter], None]:
    """As `_set_vocab_gpt2` of llama.cpp's conversion."""
    document = json.loads(library.to_str())
    special = {token["content"] for token in document["added_tokens"]}
    pieces = sorted(library.get_vocab(with_added_tokens=True).items(), key=lambda pair: pair[1])
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list([piece for piece, _ in pieces])
        writer.add_token_types([kinds[piece not in special] for piece, _ in pieces])
        merges = document["model"]["merges"]
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
        writer.add_bos_token_id(library.token_to_id("<|begin_of_text|>"))
        writer.add_eos_token_id(library.token_to_id("<|end_of_text|>"))

    return add


def split(expression: str) -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


@pytest.mark.parametrize(
    ("name", "pre", "bos"),
    [
        ("llama-bpe", split(LLAMA3), True),
        ("gpt-2", pre_tokenizers.ByteLevel(add_prefix_space=False), False),
        (
            "smollm",
            pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
            False,
        ),
    ],
)
def test_ids_are_those_of_the_byte_level_tokenizer(tmp_path: Path, name: str, pre: Any, bos: bool) -> None:
    library = byte_level(pre, whole_words=bos)
    begin = library.token_to_id("<|begin_of_text|>")
    if bos:
        library.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", begin)]
        )
    rebuilt = open_tokenizer(with_tokenizer(tmp_path / "x.gguf", add_byte_level(library, name)))
    assert rebuilt.bos_id == (begin if bos else None)
    assert rebuilt.eos_ids == {library.token_to_id("<|end_of_text|>")}
    for text in TEXTS:
        ids = library.encode(text, add_special_tokens=False).ids
        assert rebuilt.encode(text, bos=False) == ids, text
        assert rebuilt.decode(ids) == text


def add_bert(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_token_list(["a"])


def test_a_tokenizer_that_cannot_be_rebuilt_is_named(tmp_path: Path) -> None:
    library = byte_level(split(LLAMA3), whole_words=True)
    for pre in (None, "tekken-9"):
        with pytest.raises(ModelError) as caught:
            open_tokenizer(with_tokenizer(tmp_path / "x.gguf", add_byte_level(library, pre)))
        assert caught.value.code == "gguf_tokenizer"
    with pytest.raises(ModelError, match="has no tokenizer"):
        open_tokenizer(with_tokenizer(tmp_path / "x.gguf", lambda writer: writer.add_tokenizer_model("no_vocab")))
    with pytest.raises(ModelError, match="of the kind bert"):
        open_tokenizer(
            with_tokenizer(
                tmp_path / "x.gguf", lambda writer: (writer.add_tokenizer_model("bert"), writer.add_token_list(["a"]))
            )
        )
