"""Opening a model, and what is done with it then: every file of it is parsed once."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.models.checkpoint.convert import convert
from openllama_cli.models.checkpoint.safetensors_files import read_safetensors_header
from openllama_cli.models.checkpoint.torch_files import read_torch_header
from openllama_cli.models.loading.load import load
from openllama_cli.models.model_files import read_object
from openllama_cli.models.opened import open_model
from openllama_cli.models.quantize import load as quantize_load  # noqa: F401  # Imported before its names are replaced.
from openllama_cli.models.spec import ModelSpec
from tests.support.tiny_models import WRITERS


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file was parsed, wherever in the package a parser is called."""
    counts: Counter[Path] = Counter()

    def counting(parser: Any) -> Any:
        def counted(file: Path) -> Any:
            counts[file] += file.is_file()
            return parser(file)

        return counted

    for parser in (read_safetensors_header, read_torch_header, read_object):
        counted = counting(parser)
        for module in [module for name, module in sys.modules.items() if name.startswith("openllama_cli.")]:
            for name in [name for name, value in vars(module).items() if value is parser]:
                monkeypatch.setattr(module, name, counted)
    return counts


@pytest.mark.parametrize(
    ("kind", "work"),
    [
        (kind, work)
        for kind in WRITERS
        for work in ("load", "load in another type", "quantize", "convert")
        if work != "convert" or "safetensors" not in kind
    ],
)
def test_every_file_is_parsed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parsed: Counter[Path], kind: str, work: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = WRITERS[kind](tmp_path / "model")
    if work == "convert":
        convert(folder, tmp_path / "converted")
    else:
        dtype = "bfloat16" if work == "load in another type" else "float32"
        spec = ModelSpec(str(folder), device="cpu", dtype=dtype, quantize="int8" if work == "quantize" else None)
        opened = open_model(spec)
        load(opened.folder, spec, checkpoint=opened.checkpoint, tokenizer=opened.tokenizer)
    weights = ("safetensors", "bin", "pth", "index.json")
    found = {file.name: parsed[file] for file in folder.iterdir() if file.name.endswith(weights)}
    assert found == dict.fromkeys(found, 1)
    assert parsed[folder / "config.json"] + parsed[folder / "params.json"] == 1
