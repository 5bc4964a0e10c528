"""What lies in place of weights: other formats, text, pipes and devices."""

import json
import os
import struct
from pathlib import Path

import pytest

from openllama_cli.errors import ModelError
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.find import resolve
from openllama_cli.models.model_files import MAX_JSON_BYTES
from tests.support.models.tiny_models import write_meta_llama, write_tiny_llama


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGUF\x03" + b"\0" * 90, "is a GGUF file of llama.cpp"),
        (b"\x1f\x8b\x08" + b"\0" * 90, "is a gzip archive"),
        (b'{"error":"Repository not found"}', "is text, not weights"),
        (b"Not Found", "is text, not weights"),
    ],
)
@pytest.mark.parametrize("safe", [True, False])
def test_another_file_under_the_name_of_weights_is_named(tmp_path: Path, safe: bool, content: bytes, said: str) -> None:
    folder = write_tiny_llama(tmp_path, safe=safe, layers=1)
    (folder / ("model.safetensors" if safe else "pytorch_model.bin")).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        inspect(folder)


@pytest.mark.parametrize("end", [".part", ".crdownload", ".incomplete"])
def test_a_download_that_has_not_ended_is_no_file_to_rename(tmp_path: Path, end: str) -> None:
    file = tmp_path / f"llama.Q8_0.gguf{end}"
    file.write_bytes(b"GGUF\x03" + b"\0" * 90)
    with pytest.raises(ModelError, match="is a download that has not ended") as caught:
        resolve(str(file))
    assert caught.value.remedy.endswith(f"then give {tmp_path}/llama.Q8_0.gguf")


def test_weights_under_each_others_name_are_named_and_load_once_renamed(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, layers=1)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a safetensors file under the name") as caught:
        inspect(folder)
    assert caught.value.remedy == "rename it to model.safetensors"
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    assert inspect(folder)


@pytest.mark.parametrize("code", ["F4", "F6_E2M3", "F8_E8M0", "C64", "F99"])
def test_types_that_olc_does_not_read_are_named(tmp_path: Path, code: str) -> None:
    file = write_tiny_llama(tmp_path, layers=1) / "model.safetensors"
    content = file.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["lm_head.weight"]["dtype"] = code
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    with pytest.raises(ModelError, match=rf"lm_head\.weight is stored as {code}, which olc does not read"):
        inspect(tmp_path)


def test_nothing_but_regular_files_is_opened(tmp_path: Path) -> None:
    folder = write_meta_llama(tmp_path / "meta", shards=2, layers=1)
    (folder / "consolidated.01.pth").unlink()
    os.mkfifo(folder / "consolidated.01.pth")
    with pytest.raises(ModelError, match=r"consolidated\.01\.pth is a named pipe, not a file"):
        inspect(folder)
    for name in ("config.json", "model.safetensors"):
        folder = write_tiny_llama(tmp_path / name, layers=1)
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        with pytest.raises(ModelError, match="links to /dev/zero, a device, not a file"):
            inspect(folder)


def test_a_file_as_model_is_named(tmp_path: Path) -> None:
    file = tmp_path / "llama"
    file.write_bytes(b"GGUF\x03")
    with pytest.raises(ModelError, match="is a GGUF file"):
        resolve(str(file))
    file.write_bytes(b"x")
    with pytest.raises(ModelError, match="is a file; a model is a folder"):
        resolve(str(file))


def test_json_beyond_what_a_llama_needs_is_not_parsed(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path, layers=1)
    (folder / "config.json").write_text("[" * (MAX_JSON_BYTES + 1))
    with pytest.raises(ModelError, match=r"too large to be the config\.json of a Llama"):
        inspect(folder)
