"""tokenizer.json files with every component of the `tokenizers` library, made with the library itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

TEXTS = ["the cat, THE  Café (10,000)\n日本 ﬁ ①", "  two", " ", "", "a.b-c '", "▁a", "it's the<x>the <y> the<x> ", "<s>the</s>"]
LETTERS = sorted({letter for text in TEXTS for letter in text} | set(pre_tokenizers.ByteLevel.alphabet()) | set("▁#</w>|"))
VOCABULARY = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", *LETTERS, "th", "the", "##e", "the</w>"])}
MERGES = [("t", "h"), ("th", "e")]
A, B = ("<s>", 1), ("</s>", 2)

Change = Callable[[Library], object]


def model(made: models.Model) -> Change:
    return lambda library: setattr(library, "model", made)


def part(kind: str, made: Any) -> Change:
    return lambda library: setattr(library, kind, made)


def added(**flags: bool) -> Change:
    return lambda library: library.add_tokens([AddedToken("<x>", **flags), AddedToken("<y>", special=True)])


BYTES = VOCABULARY | {f"<0x{byte:02X}>": 400 + byte for byte in range(256)}
CHANGES: list[Change] = [
    model(models.BPE(VOCABULARY, MERGES, unk_token="<unk>")),
    model(models.BPE(VOCABULARY, MERGES, unk_token="<unk>", fuse_unk=True)),
    model(models.BPE(VOCABULARY, MERGES, dropout=0.5, unk_token="<unk>")),
    model(models.BPE(VOCABULARY, MERGES, ignore_merges=True, unk_token="<unk>")),
    model(models.BPE(VOCABULARY, [("t", "h")], end_of_word_suffix="</w>", unk_token="<unk>")),
    model(models.BPE(VOCABULARY, [], continuing_subword_prefix="##", unk_token="<unk>")),
    model(models.BPE({k: v for k, v in BYTES.items() if k != "日"}, MERGES, byte_fallback=True, unk_token="<unk>")),
    model(models.Unigram([(piece, -len(piece) / 9) for piece in VOCABULARY], 0, False)),
    model(models.WordPiece(VOCABULARY, unk_token="<unk>", max_input_chars_per_word=9)),
    model(models.WordLevel(VOCABULARY, unk_token="<unk>")),
    *(
        part("normalizer", made)
        for made in [
            normalizers.BertNormalizer(),
            normalizers.ByteLevel(),
            normalizers.Lowercase(),
            normalizers.NFC(),
            normalizers.NFD(),
            normalizers.NFKC(),
            normalizers.NFKD(),
            normalizers.Nmt(),
            normalizers.Prepend("▁"),
            normalizers.Replace(" ", "▁"),
            normalizers.Replace(Regex("[0-9]+"), "1"),
            normalizers.Strip(),
            normalizers.StripAccents(),
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        ]
    ),
    *(
        part("pre_tokenizer", made)
        for made in [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.ByteLevel(add_prefix_space=True),
            pre_tokenizers.CharDelimiterSplit(" "),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.FixedLength(3),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.UnicodeScripts(),
            pre_tokenizers.Whitespace(),
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Whitespace()]),
        ]
    ),
    *(
        part("post_processor", made)
        for made in [
            processors.BertProcessing(B, A),
            processors.ByteLevel(),
            processors.RobertaProcessing(B, A),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[A]),
            processors.TemplateProcessing(single="$A </s>", special_tokens=[B]),
            processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing("<s> $A </s>", special_tokens=[A, B])]),
        ]
    ),
    *(
        part("decoder", made)
        for made in [
            decoders.BPEDecoder(),
            decoders.ByteFallback(),
            decoders.ByteLevel(),
            decoders.Fuse(),
            decoders.Metaspace(),
            decoders.Replace("▁", " "),
            decoders.Strip("t", 1, 0),
            decoders.WordPiece(),
            decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            ),
        ]
    ),
    *(added(**{flag: True}) for flag in ("single_word", "lstrip", "rstrip", "normalized")),
]


def save(folder: Path, *changes: Change, **settings: Any) -> Path:
    library = Library(models.BPE(VOCABULARY, MERGES, unk_token="<unk>"))
    library.add_special_tokens(["<s>", "</s>"])
    for change in changes:
        change(library)
    folder.mkdir(parents=True, exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **settings})
    write_json(folder / "config.json", {"model_type": "llama", "vocab_size": 1000})
    return folder


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")
