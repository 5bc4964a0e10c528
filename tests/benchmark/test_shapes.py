"""Random models: written whole or not at all, once, and such as olc itself loads."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from openllama_cli.benchmark import shapes
from openllama_cli.benchmark.shapes import SHAPES, list_random_models, random_model, remove_random_models
from openllama_cli.errors import OlcError
from openllama_cli.models.checkpoint import safetensors_files
from openllama_cli.models.checkpoint.inspect import inspect
from openllama_cli.models.checkpoint.shape import LlamaShape
from openllama_cli.system.progress import NullProgress

TINY = LlamaShape(48, 80, layers=2, heads=4, kv_heads=2, head_dim=12, vocab=32000, context=64)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setattr(shapes, "_DRAWN", 1 << 16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_shape_is_written_once_as_a_checkpoint(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = random_model("tiny", dtype, NullProgress())
    checkpoint = inspect(folder)
    assert (checkpoint.dtype, checkpoint.shape.tensors()) == (dtype, TINY.tensors())
    monkeypatch.setattr(shapes, "_write", lambda *_: pytest.fail("written again"))
    assert random_model("tiny", dtype, NullProgress()) == folder


def test_the_shapes_of_openllama_are_those_of_the_catalogue() -> None:
    assert SHAPES["3b"].parameters() == 3_426_473_600
    assert (SHAPES["3b"].head_dim, SHAPES["7b"].hidden, SHAPES["13b"].layers) == (100, 4096, 40)


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(OlcError, match=r"need 6\.2 MB in .* has 1 B free"):
        random_model("tiny", "float16", NullProgress())


def test_what_was_written_of_a_shape_goes_when_writing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(safetensors_files, "write_safetensors", Mock(side_effect=full))
    with pytest.raises(OlcError, match="No space left"):
        random_model("tiny", "float16", NullProgress())
    assert not list((tmp_path / "olc" / "bench").glob("*"))


def test_random_models_are_listed_and_removed() -> None:
    assert list_random_models() == []
    folder = random_model("tiny", "float16", NullProgress())
    killed = folder.with_name("110m-float16")
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(bytes(1000))
    found = list_random_models()
    assert [(model.name, model.complete) for model in found] == [("bench 110m float16", False), ("bench tiny float16", True)]
    assert found[0].bytes == 1000
    assert remove_random_models(found) == sum(model.bytes for model in found)
    assert list_random_models() == []
