"""Where olc keeps its files, and where huggingface_hub does."""

import os
import runpy
from pathlib import Path

import pytest
from huggingface_hub import constants

from openllama_cli.errors import OlcError
from openllama_cli.system.paths import cache_dir, config_dir, hub_cache_dir, hub_endpoint, hub_offline


def test_folders_follow_the_environment_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_dir() == Path("/c/olc")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert (cache_dir(), config_dir()) == (tmp_path / ".cache/olc", tmp_path / ".config/olc")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    for name, folder in (("XDG_CONFIG_HOME", config_dir), ("XDG_CACHE_HOME", cache_dir)):
        monkeypatch.delenv(name)
        with pytest.raises(OlcError, match=name) as caught:
            folder()
        assert name in caught.value.remedy


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"])
def test_a_folder_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = {"XDG_CONFIG_HOME": config_dir, "XDG_CACHE_HOME": cache_dir}.get(name, hub_cache_dir)
    for value in ("/" + "x" * 300, "/x" * 4000):
        monkeypatch.setenv(name, value)
        with pytest.raises(OlcError, match=name) as caught:
            folder()
        assert f"unset {name}" in caught.value.remedy


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
    theirs = runpy.run_path(constants.__file__)  # It reads the environment once, here.
    assert [str(hub_cache_dir()), hub_endpoint(), hub_offline()] == [
        theirs[name] for name in ("HF_HUB_CACHE", "ENDPOINT", "HF_HUB_OFFLINE")
    ]
