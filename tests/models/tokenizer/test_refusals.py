"""What a tokenizer's files may not say is named, and whatever they say, olc ends with two lines or works.

More mutations: `python -m tests.models.tokenizer.test_refusals 5000`.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, normalizers

from openllama_cli.errors import ModelError, OlcError
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.models.tokenizer.test_components import DECODER
from tests.support.models.sentencepiece_models import trained, write
from tests.support.models.tokenizer_files import CHANGES, part, save, write_json

BACKTRACKS = normalizers.Replace(Regex("(a+)+b"), "x")


@pytest.mark.parametrize(("changes", "words"), [
    ({"pre_tokenizer": {"type": "Tomorrow"}}, "pre-tokenizer 'Tomorrow', which olc with tokenizers 0"),
    ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Soon"}]}}, "normalizer 'Soon'"),
    ({"model": {"type": "Mamba"}}, "model 'Mamba'"),
    ({"normalizer": {"type": "NFC", "speed": 2}}, "setting of NFC 'speed'"),
    ({"decoder": {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}}, "decoder 'CTC'"),
    ({"postprocessor": None}, "setting 'postprocessor'"),
    ({"added_tokens": [{"id": 1, "content": "<s>", "color": 1}]}, "setting of an added token 'color'"),
    ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 999}}, "64 times longer"),
    ({"decoder": {"type": "Sequence", "decoders": [
        {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": " ."}, "content": "."}]}}, "Replace after Fuse"),
    ({"post_processor": {"type": "TemplateProcessing", "single": 1, "special_tokens": {}, "pair": []}}, "post-processor"),
])  # fmt: skip
def test_what_is_not_known_is_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    file = save(tmp_path) / "tokenizer.json"
    write_json(file, json.loads(file.read_text(encoding="utf-8")) | changes)
    with pytest.raises(ModelError) as caught:
        open_tokenizer(tmp_path)
    assert words in caught.value.cause


@pytest.mark.parametrize(("name", "value"), [
    ("bos_token", "\ud800"), ("bos_token", 5), ("add_bos_token", "no"), ("added_tokens_decoder", {"x": {"content": "a"}}),
    ("added_tokens_decoder", {"3": {"content": "\udfff"}}), ("added_tokens_decoder", [1]), ("tokenizer_class", "XGLMTokenizer"),
])  # fmt: skip
def test_wrong_settings_are_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ModelError, match="token"):
        open_tokenizer(write(tmp_path, trained("bpe-openllama-v2"), tokenizer_config={name: value}))


def test_panics_are_errors_of_the_file_or_of_the_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened = open_tokenizer(save(tmp_path / "text", part("normalizer", BACKTRACKS)))
    assert opened.encode("the cat")
    with pytest.raises(OlcError) as caught:
        opened.encode("a" * 40)
    assert caught.value.code == "tokenizer_failed"
    folder = save(tmp_path / "file")
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["continuing_subword_prefix"] = "####"
    write_json(folder / "tokenizer.json", document)
    with pytest.raises(ModelError, match=r"is not a tokenizer\.json that tokenizers"):
        open_tokenizer(folder)
    assert capfd.readouterr() == ("", "")


def test_a_pattern_that_searches_on_and_on_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.models.tokenizer.tokenizer_json._SECONDS", 0.05)
    slow = normalizers.Replace(Regex("[ab]+[ac]+[ad]+[ae]+x{2}"), "x")
    with pytest.raises(OlcError, match="takes longer"):
        open_tokenizer(save(tmp_path, part("normalizer", slow))).encode("a" * 100)


# -- mutations ------------------------------------------------------------------------------------------------------


def mutate(chance: random.Random, document: Any) -> None:
    """Change one value of a tokenizer.json somewhere to one of another kind."""
    values = [
        None,
        True,
        -1,
        2**33,
        1.5,
        "",
        "\u0000",
        "<s>",
        [],
        {},
        [[]],
        {"type": "ByteLevel"},
        {"String": ""},
        {"Regex": "(a*)*"},
    ]
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = chance.choice(list(keys)[:40])
        inner = place[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.7:
            place = inner
            continue
        place[key] = chance.choice(values)
        return


def fuzz(folder: Path, seeds: range) -> int:
    """Open and use mutated files; returns how many could be opened. Whatever is not an OlcError is raised."""
    opened = 0
    for seed in seeds:
        chance = random.Random(seed)
        save(folder, chance.choice(CHANGES), chance.choice(CHANGES))
        file = folder / chance.choice(["tokenizer.json", "tokenizer.json", "tokenizer_config.json"])
        document = json.loads(file.read_text(encoding="utf-8"))
        if file.name == "tokenizer_config.json":
            document |= {"added_tokens_decoder": {"400": dict(DECODER["400"])}, "bos_token": {"content": "<s>"}}
        mutate(chance, document)
        write_json(file, document)
        try:
            tokenizer = open_tokenizer(folder)
            opened += 1
            ids = tokenizer.encode("the <x> a\n 日本")
            tokenizer.decode(ids)
            [(tokenizer.text(token), tokenizer.unfinished([token])) for token in ids]
        except OlcError:
            continue
    return opened


def test_mutated_files_are_errors_or_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert 20 < fuzz(tmp_path, range(200)) < 200
    assert capfd.readouterr() == ("", "")


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        print(fuzz(Path(name), range(int(sys.argv[1]))), "of", sys.argv[1], "opened")
