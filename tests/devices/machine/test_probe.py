"""The tokenizer library, protobuf, the demo model, the Hub's folder: tried on this machine, and broken on purpose."""

import json
import sys
from pathlib import Path

import pytest

from openllama_cli.devices.machine import probe
from openllama_cli.devices.machine.probe import read_cache, read_checks, read_versions
from openllama_cli.models.hub.cache import repo_folder
from tests.support.models.tiny_models import write_tiny_llama


def outcomes() -> dict[str, bool]:
    return {check.name: check.ok for check in read_checks()}


@pytest.mark.parametrize(
    ("broken", "fails"), [("no_such_library", ""), ("sentencepiece",) * 2, ("google.protobuf", "protobuf")]
)
def test_libraries_that_cannot_be_imported_are_named(monkeypatch: pytest.MonkeyPatch, broken: str, fails: str) -> None:
    monkeypatch.setitem(sys.modules, broken, None)
    assert outcomes() == {name: name != fails for name in ("sentencepiece", "protobuf", "demo model")}
    assert all(broken in check.detail for check in read_checks() if not check.ok)


def test_a_cut_demo_model_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_llama(tmp_path / "demo")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    monkeypatch.setattr(probe, "demo_folder", lambda: folder)
    assert not outcomes()["demo model"]
    (folder / "tokenizer.model").write_bytes(b"no model")
    assert outcomes() == {"sentencepiece": False, "protobuf": True, "demo model": False}


def test_the_cache_is_described_whether_or_not_it_is_there(tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path / "not" / "yet"), "HF_ENDPOINT": "https://hub.example/"}
    cache = read_cache(environment)
    assert (cache.path, cache.exists, cache.writable) == (str(tmp_path / "not/yet/hub"), False, True)
    assert cache.free_bytes
    assert (cache.models, cache.largest, cache.offline, cache.token) == (0, None, None, None)
    assert cache.endpoint == "https://hub.example"
    assert not (tmp_path / "not").exists()


def test_the_largest_cached_model_and_one_whose_download_did_not_end_are_named(tmp_path: Path) -> None:
    folders = {}
    for name, layers in (("org/small", 1), ("org/large", 9)):
        repo = repo_folder(name, tmp_path / "hub")
        folders[name] = write_tiny_llama(repo / "snapshots" / "abc", layers=layers)
        (repo / "refs").mkdir()
        (repo / "refs/main").write_text("abc")
    cache = read_cache({"HF_HOME": str(tmp_path)})
    assert (cache.models, cache.incomplete) == (2, ())
    assert cache.largest is not None
    assert cache.largest[0] == "org/large"
    (folders["org/small"] / "model.safetensors").unlink()
    assert read_cache({"HF_HOME": str(tmp_path)}).incomplete == ("org/small",)


def test_a_folder_that_takes_no_files_is_not_writable() -> None:
    """Permissions do not stop root, so a file system that takes no files is used."""
    folder = Path("/proc/self")
    if not folder.is_dir():
        pytest.skip("needs /proc")
    assert not read_cache({"HF_HUB_CACHE": str(folder)}).writable


def test_a_token_is_found_and_never_shown(tmp_path: Path) -> None:
    home = {"HF_HOME": str(tmp_path)}
    assert read_cache(home).token is None
    (tmp_path / "token").write_text("hf_secret")
    assert read_cache(home).token == "saved"
    found = read_cache(home | {"HF_TOKEN": "hf_secret"})
    assert found.token == "HF_TOKEN"
    assert "secret" not in json.dumps(found.__dict__)
    (tmp_path / "elsewhere").write_text("hf_secret")
    assert read_cache({"HF_TOKEN_PATH": str(tmp_path / "elsewhere"), "HF_HOME": "/nowhere"}).token == "saved"


@pytest.mark.parametrize(
    ("environment", "offline"),
    [
        ({}, None),
        ({"HF_HUB_OFFLINE": "0"}, None),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"TRANSFORMERS_OFFLINE": "yes"}, "TRANSFORMERS_OFFLINE"),
    ],
)
def test_the_variable_that_forbids_the_network_is_named(environment: dict[str, str], offline: str | None) -> None:
    assert read_cache(environment).offline == offline


def test_versions_are_read_without_importing() -> None:
    found = read_versions("2.13.0", "CPU", None)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(found[name] for name in ("olc", "transformers", "accelerate", "sentencepiece"))
    assert read_versions(None, "CPU", "570")["torch_build"] is None
