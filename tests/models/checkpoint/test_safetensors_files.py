"""The headers of weight files, compared with what the libraries read, and damaged in every way."""

import contextlib
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.safetensors_files import read_safetensors_header
from openllama_cli.models.checkpoint.shape import TensorInfo
from openllama_cli.models.checkpoint.torch_files import read_torch_header
from tests.support.tiny_models import write_tiny_llama

READERS = {"model.safetensors": read_safetensors_header, "pytorch_model.bin": read_torch_header}


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
        found = read_torch_header(tmp_path / "x.bin")
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
