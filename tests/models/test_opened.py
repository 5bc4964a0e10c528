"""Opening a model, and what is done with it then: nothing heavy is imported for it, and every file of it is parsed once."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.models.checkpoint.convert import convert
from openllama_cli.models.checkpoint.safetensors_files import read_safetensors_header
from openllama_cli.models.checkpoint.torch_files import read_torch_header
from openllama_cli.models.loading.load import load
from openllama_cli.models.model_files import read_object, write_json
from openllama_cli.models.opened import check_context, open_model
from openllama_cli.models.quantize import load as quantize_load  # noqa: F401  # Imported before its names are replaced.
from openllama_cli.models.spec import ModelSpec
from tests.support.models.tiny_models import WRITERS, change_config


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


def test_opening_imports_nothing_heavy(tmp_path: Path) -> None:
    folders = [str(WRITERS[kind](tmp_path / kind)) for kind in WRITERS if kind != "gguf"]  # Its package imports numpy.
    repo = tmp_path / "hub" / "models--org--tiny"
    WRITERS["bin"](repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    code = (
        "import sys\n"
        "from openllama_cli.models.opened import open_model\n"
        "from openllama_cli.models.spec import ModelSpec\n"
        "for model in sys.argv[1:]:\n"
        "    tokenizer = open_model(ModelSpec(model)).tokenizer\n"
        "    tokenizer.decode(tokenizer.encode('whale'))\n"
        "heavy = {'torch', 'transformers', 'safetensors', 'numpy', 'google.protobuf', 'huggingface_hub'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    command = [sys.executable, "-c", code, *folders, "org/tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")})
    assert (done.stdout, done.stderr) == ("[]\n", "")


# One file is a case of several.
@pytest.mark.parametrize(
    ("kind", "work"),
    [
        (kind, work)
        for kind in ("sharded safetensors", "sharded bin", "meta in two files")
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
        load(open_model(spec), spec)
    weights = ("safetensors", "bin", "pth", "index.json")
    found = {file.name: parsed[file] for file in folder.iterdir() if file.name.endswith(weights)}
    assert found == dict.fromkeys(found, 1)
    assert parsed[folder / "config.json"] + parsed[folder / "params.json"] == 1


@pytest.mark.parametrize(
    ("context", "max_tokens", "remedy"),
    [
        (16, 10, "use --max-tokens 7 or less"),
        (9, 5, "shorten the prompt by at least 5 tokens"),
        (9, 16, "shorten the prompt by at least 1 token and lower --max-tokens"),
        (2, 16, "use a model with a larger context"),
    ],
)
def test_a_text_that_does_not_fit_is_told_with_what_can_be_done(
    tmp_path: Path, context: int, max_tokens: int, remedy: str
) -> None:
    folder = WRITERS["safetensors"](tmp_path / "model")
    change_config(folder, max_position_embeddings=context)
    with pytest.raises(UsageError) as refused:
        check_context(open_model(ModelSpec(str(folder))), 9, max_tokens)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.remedy.startswith(remedy)


def test_what_lies_beside_a_model_and_is_not_applied_is_named(tmp_path: Path) -> None:
    folder, said = WRITERS["safetensors"](tmp_path / "model"), list[str]()
    settings = {"eos_token_id": 2, "temperature": 0.6, "top_p": 0.9, "do_sample": True, "num_beams": 1, "min_length": 0}
    write_json(folder / "generation_config.json", settings)
    open_model(ModelSpec(str(folder)), notice=said.append)
    assert said == []
    write_json(folder / "generation_config.json", {**settings, "suppress_tokens": [5], "num_beams": 4})
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    open_model(ModelSpec(str(folder)), notice=said.append)
    assert len(said) == 2
    assert "adapter_config.json describes an adapter, which is not applied" in said[0]
    assert "asks for num_beams, suppress_tokens, which olc does not apply" in said[1]
