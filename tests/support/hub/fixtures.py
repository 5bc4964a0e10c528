"""A Hub on loopback for the tests of pulling, and a cache of their own."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub.server import HubServer
from tests.support.models.tiny_models import tiny_config, tokenizer_model_bytes

TOKENIZER = tokenizer_model_bytes()
CONFIG = json.dumps(tiny_config()).encode()
WEIGHTS = os.urandom(200_000)
SMALL = {"config.json": CONFIG, "generation_config.json": b"{}", "tokenizer.model": TOKENIZER}
WHOLE = SMALL | {"model.safetensors": WEIGHTS}


def asked(server: HubServer) -> set[str]:
    """The names of the files that were asked for."""
    return {seen.path.rpartition("/")[2] for seen in server.requests if "/resolve/" in seen.path}


def index(*shards: str) -> bytes:
    """A weights index that names these files."""
    return json.dumps({"weight_map": {f"weight.{number}": shard for number, shard in enumerate(shards)}}).encode()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("openllama_cli.models.hub.download.RETRY_SECONDS", (0.0, 0.01, 0.01))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    return tmp_path / "hub"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def tiny(server: HubServer) -> HubServer:
    """The server, with the repository org/tiny."""
    server.add("org/tiny", WHOLE)
    return server
