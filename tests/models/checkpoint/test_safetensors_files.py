"""The headers of weight files, compared with what the libraries read, and damaged in every way."""

import contextlib
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.safetensors_files import read_safetensors_header
from openllama_cli.models.checkpoint.stored import TensorInfo
from openllama_cli.models.checkpoint.torch_files import check_storages, read_torch_header
from tests.support.models.tiny_models import write_tiny_llama

READERS: dict[str, Callable[[Path], dict[str, TensorInfo]]] = {
    "model.safetensors": read_safetensors_header,
    "pytorch_model.bin": lambda file: read_torch_header(file).tensors,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of one sound file in each format."""
    folder = tmp_path_factory.mktemp("weights")
    write_tiny_llama(folder, layers=1)
    write_tiny_llama(folder, layers=1, safe=False)
    return {name: (folder / name).read_bytes() for name in READERS}


def test_the_safetensors_header_is_what_the_library_reads(tmp_path: Path) -> None:
    file = write_tiny_llama(tmp_path, dtype="bfloat16") / "model.safetensors"
    with safe_open(file, framework="pt") as library:
        expected = {name: library.get_tensor(name) for name in library.keys()}  # noqa: SIM118
    assert read_safetensors_header(file) == {name: TensorInfo("bfloat16", tuple(t.shape)) for name, t in expected.items()}


def test_the_torch_header_is_what_torch_reads(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "whole": base,
        "transposed": base.T,
        "slice": base[1:3, 2:4],
        "parameter": torch.nn.Parameter(torch.ones(3, dtype=torch.float16), requires_grad=False),
        "numbers": torch.arange(5),
        "half": torch.ones(2, 2, dtype=torch.bfloat16),
        "empty": torch.ones(0, 4),
    }
    for checksums in (False, True):
        torch.serialization.set_crc32_options(checksums)
        torch.save(state, tmp_path / "x.bin")
        found = read_torch_header(tmp_path / "x.bin").tensors
        loaded = torch.load(tmp_path / "x.bin", weights_only=True)
        assert found == {n: TensorInfo(str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in loaded.items()}


@pytest.mark.parametrize("name", READERS)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, weights: dict[str, bytes], name: str) -> None:
    content = weights[name]
    chance = random.Random(1)
    for length in {1, 7, 8, 9, 63, 64, len(content) // 2, len(content) - 1, *chance.sample(range(len(content)), 40)}:
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"truncated|damaged|not a"):
            READERS[name](tmp_path / name)
    (tmp_path / name).write_bytes(content + b"\n")
    with pytest.raises(ModelError, match="1 bytes longer") if name == "model.safetensors" else contextlib.nullcontext():
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_a_changed_byte_is_refused_or_leaves_a_sound_header(tmp_path: Path, weights: dict[str, bytes], name: str) -> None:
    """Whatever a bit flip does to a header, the answer is a ModelError or names and sizes that lie inside the file."""
    content = weights[name]
    chance = random.Random(2)
    refused = 0
    places = range(3000) if name.endswith("safetensors") else (*range(3000), *range(len(content) - 3000, len(content)))
    for _ in range(200):
        damaged = bytearray(content)
        damaged[chance.choice(places)] ^= 1 << chance.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        try:
            header = READERS[name](tmp_path / name)
        except ModelError:
            refused += 1
            continue
        assert sum(info.nbytes for info in header.values()) <= len(content)
    assert refused > 20


@pytest.mark.parametrize("where", ["a name", "a storage", "sizes"])
def test_tuples_of_tuples_are_refused_and_never_formatted(tmp_path: Path, where: str) -> None:
    """Sixty doublings in a hundred bytes: whoever hashes or formats them never ends."""
    doubled = b"K\x01q\xf0" + b"h\xf0h\xf0\x86q\xf0" * 60
    name = b"X\x01\x00\x00\x00x"
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + doubled + b"K\x01\x85\x89)tR"
    pickled = {
        "a name": b"\x80\x02}(" + doubled + b"K\x01u.",
        "a storage": b"\x80\x02}(" + name + doubled + b"Qu.",
        "sizes": b"\x80\x02}(" + name + tensor + b"u.",
    }[where]
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/data/0", bytes(4))
    started = time.process_time()
    with pytest.raises(ModelError, match="damaged"):
        read_torch_header(tmp_path / "x.bin")
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("entry", "content", "said"),
    [
        ("outside", b"x", "lies outside the archive's folder"),
        ("x/version", b"999", "its entry version is 999"),
        ("x/.storage_alignment", b"big", "its entry .storage_alignment is big"),
        ("x/constants.pkl", b"", "is a TorchScript program"),
        ("x/byteorder", b"big", "big-endian"),
    ],
)
def test_archives_that_torch_would_not_read_are_refused(tmp_path: Path, entry: str, content: bytes, said: str) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()} | {entry: content}
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        for name, value in entries.items():
            archive.writestr(name, value)
    with pytest.raises(ModelError, match=said):
        read_torch_header(tmp_path / "x.bin")


def test_a_changed_bit_of_a_storage_does_not_match_its_checksum(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    torch.save({"x": torch.ones(2000)}, file)
    check_storages({file: read_torch_header(file).storages})
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(ModelError, match="1 of its 1 storages do not match their checksums"):
        check_storages({file: read_torch_header(file).storages})
