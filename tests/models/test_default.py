"""The default model's file, and where olc keeps its files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openllama_cli.errors import OlcError
from openllama_cli.models.find import default_file, read_default, write_default
from openllama_cli.system.paths import cache_dir, config_dir, hub_cache_dir, hub_endpoint, hub_offline


def test_default_is_remembered_replaced_and_forgotten(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert read_default(env) is None
    write_default("3b-v2", env)
    write_default("/models/my llama", env)
    assert read_default(env) == "/models/my llama"
    assert list(default_file(env).parent.iterdir()) == [default_file(env)], "no temporary file is left"
    write_default(None, env)
    write_default(None, env)
    assert read_default(env) is None


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_blank_file_is_no_default(tmp_path: Path, content: bytes) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    default_file(env).parent.mkdir()
    default_file(env).write_bytes(content)
    assert read_default(env) is None


def test_unreadable_default_names_the_file(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    default_file(env).parent.mkdir()
    default_file(env).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OlcError, match="default-model") as caught:
        read_default(env)
    assert str(default_file(env)) in caught.value.remedy


def test_settings_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OlcError, match="cannot write"):
        write_default("3b", {"XDG_CONFIG_HOME": str(tmp_path / "file")})


def test_folders_follow_the_environment_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_dir({}) == tmp_path / ".config/olc"
    assert cache_dir({}) == tmp_path / ".cache/olc"
    assert cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/olc")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HF_HOME": "/hf"},
        {"HF_HOME": "$BASE/hf", "BASE": "/base"},
        {"HF_HOME": "~/hf"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HUB_CACHE": "~/cache", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"},
        {"HF_ENDPOINT": "https://mirror.example/"},
        {"HF_HUB_OFFLINE": "yes"},
        {"TRANSFORMERS_OFFLINE": "1"},
        {"HF_HUB_OFFLINE": "0"},
    ],
    ids=str,
)
def test_hub_settings_are_those_of_huggingface_hub(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "XDG_", "TRANSFORMERS_"))]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = "import json, huggingface_hub.constants as c; print(json.dumps([c.HF_HUB_CACHE, c.ENDPOINT, c.HF_HUB_OFFLINE]))"
    theirs = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert [str(hub_cache_dir()), hub_endpoint(), hub_offline()] == theirs
