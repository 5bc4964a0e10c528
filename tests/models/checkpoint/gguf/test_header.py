"""GGUF headers: what the package gguf reads of a file is what olc reads, and every damage ends in two lines."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.gguf.header import read_header
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.details import details
from openllama_cli.models.find import resolve
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models import mutations
from tests.support.models.gguf_files import write_gguf
from tests.support.models.tiny_models import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", layers=1)


def test_a_header_is_read_as_the_package_reads_it(tiny: Path) -> None:
    theirs, ours = gguf.GGUFReader(tiny), read_header(tiny)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.settings.keys() == fields.keys()
    for name, value in ours.settings.items():
        wanted = fields[name].contents()
        assert (list(value) if isinstance(value, tuple) else value) == wanted, name
    found = {name: (one.type, one.shape, one.offset) for name, one in ours.tensors.items()}
    assert found == {
        one.name: (one.tensor_type, tuple(map(int, reversed(one.shape))), one.data_offset) for one in theirs.tensors
    }


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        inspect(path)
    assert caught.value.remedy
    return caught.value


def changed(tiny: Path, path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(tiny.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:4] + struct.pack("<I", 4) + data[8:], "is GGUF version 4, newer than olc reads"),
        (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "is GGUF version 1, older than olc reads"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "big-endian"),
        (lambda data: data[:3000], "is truncated: 3,000 bytes"),
        (lambda data: data[:10], "is truncated: 10 bytes"),
        (lambda data: data[:-100], "is truncated: .* ends at"),
        (lambda data: b"", "is empty"),
        (lambda data: b"<html>", "is a web page"),
        (lambda data: b"\x00" * 99, "is not a GGUF file"),
        (lambda data: data[:16] + struct.pack("<Q", 9_999) + data[24:], "is truncated|is damaged"),
        (lambda data: data.replace(b"blk.0.ffn_norm", b"blk.0.ffn_horn"), "is missing 1 of the 12 weights"),
        (lambda data: data.replace(b"blk.0.ffn_norm", b"blk.0.attn_norm"[:14]), "twice|is damaged|missing"),
        (lambda data: data.replace(b"blk.0.attn_q.weight", b"blk.00.attn_q.weigh"), "is missing 1"),
        (lambda data: data[:8] + struct.pack("<QQ", 50_001, 1) + data[24:], "says 50,001 tensors"),
        (lambda data: data[:8] + struct.pack("<QQ", 1, 10_001) + data[24:], "says 10,001 settings"),
        (lambda data: a_list(8, 1 << 60), "more than 2,097,152 values"),
        (lambda data: a_list(0, 3 << 20) + b"\0" * (3 << 20), "more than 2,097,152 values"),
        (lambda data: a_list(9, 1), "a list of type 9"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tiny: Path, tmp_path: Path, change: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        inspect(changed(tiny, tmp_path / "x.gguf", change))


def a_list(kind: int, count: int) -> bytes:
    """A file whose only setting is a list."""
    return b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, kind, count)


def test_a_weight_under_its_hugging_face_name_is_refused(tmp_path: Path) -> None:
    more = write_gguf(
        tmp_path / "x.gguf",
        layers=1,
        change=lambda writer: writer.add_tensor("model.layers.0.self_attn.q_proj.weight", np.ones((32, 32), np.float32)),
    )
    assert "Hugging Face's name of a weight" in refusal(more).cause


def test_what_is_no_llama_is_named(tmp_path: Path) -> None:
    assert "holds a gemma model" in refusal(write_gguf(tmp_path / "a.gguf", architecture="gemma", layers=1)).cause
    adapter = write_gguf(tmp_path / "b.gguf", layers=1, change=lambda writer: writer.add_type("adapter"))
    assert "is an adapter for llama.cpp" in refusal(adapter).cause
    experts = write_gguf(tmp_path / "c.gguf", layers=1, change=lambda writer: writer.add_expert_count(8))
    assert refusal(experts).code == "unsupported_config"


def test_a_type_that_the_package_does_not_decode_is_named(tiny: Path, tmp_path: Path) -> None:
    name = b"blk.0.ffn_up.weight"

    def with_type(number: int) -> Callable[[bytes], bytes]:
        # Behind the name: the number of dimensions, two of them, the type.
        place = tiny.read_bytes().index(name) + len(name) + 4 + 16
        return lambda data: data[:place] + struct.pack("<I", number) + data[place + 4 :]

    for number in (999, gguf.GGMLQuantizationType.Q8_1, gguf.GGMLQuantizationType.I32):
        error = refusal(changed(tiny, tmp_path / "x.gguf", with_type(number)))
        assert error.code == "gguf_type"
        assert "blk.0.ffn_up.weight is of " in error.cause


def test_a_folder_means_its_only_gguf_file(tmp_path: Path) -> None:
    one = write_gguf(tmp_path / "one.gguf", layers=1)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')  # As repositories of GGUF files have it.
    assert resolve(str(tmp_path)).path == one
    write_gguf(tmp_path / "two.gguf", layers=1)
    with pytest.raises(ModelError, match=r"contains 2 models: one\.gguf, two\.gguf"):
        resolve(str(tmp_path))
    write_tiny_llama(tmp_path)
    assert resolve(str(tmp_path)).path == tmp_path, "other weights win"


def test_a_split_model_is_one_and_a_missing_part_is_named(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf")
    files = split(whole, tmp_path / "parts", 3)
    assert resolve(str(tmp_path / "parts")).path == files[0]
    for file in files:
        found = inspect(file)
        assert (found.files, found.shape, found.config) == (tuple(files), inspect(whole).shape, inspect(whole).config)
    assert open_tokenizer(files[1]).encode("the whale") == open_tokenizer(whole).encode("the whale")
    files[0].rename(tmp_path / "parts/alone.gguf")
    assert "one of 3 parts" in refusal(tmp_path / "parts/alone.gguf").cause
    assert "but not tiny-00001-of-00003.gguf" in refusal(files[1]).cause
    with pytest.raises(ModelError, match="but not tiny-00001-of-00003"):
        details(resolve(str(files[1])))
    files[1].rename(files[0])
    (tmp_path / "parts/alone.gguf").rename(files[1])
    assert "part 1, counted from 0" in refusal(files[0]).cause


@pytest.mark.parametrize("name", ["x-00001-of-00000.gguf", "x-00005-of-00003.gguf", "x-00001-of-99999.gguf"])
def test_a_name_that_no_part_has_is_that_of_a_whole_model(tmp_path: Path, name: str) -> None:
    file = write_gguf(tmp_path / name, layers=1)
    assert resolve(str(tmp_path)).path == file
    assert inspect(file).files == (file,)


def split(file: Path, folder: Path, count: int) -> list[Path]:
    """A model over several files, as llama.cpp's gguf-split writes them: all settings in the first."""
    folder.mkdir()
    reader = gguf.GGUFReader(file)
    files = [folder / f"tiny-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    for number, part in enumerate(files):
        writer = gguf.GGUFWriter(part, "llama")
        for name, field in reader.fields.items():
            if number == 0 and not name.startswith("GGUF.") and name != "general.architecture":
                kinds = [*field.types, None]
                writer.add_key_value(name, field.contents(), field.types[0], sub_type=kinds[1])
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        for tensor in reader.tensors[number::count]:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return files


def test_damaged_files_end_in_two_lines(tiny: Path, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    chance, causes = random.Random(5), list[str]()
    file = tmp_path / "x.gguf"
    for _ in range(60):
        file.write_bytes(mutations.bytes_anywhere(content[:12_000], chance) + content[12_000:])
        for read in (inspect, open_tokenizer):
            try:
                read(file)
            except ModelError as error:
                causes.append(error.cause)
    assert len(causes) > 60
    assert all(cause.isprintable() for cause in causes)
