"""`convert`: the same weights in standard files, atomically and in little memory."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from openllama_cli.errors import ModelError, OlcError, UsageError
from openllama_cli.models.checkpoint.convert import convert, plan_shards
from openllama_cli.models.checkpoint.stored import TensorInfo
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from tests.conftest import Result
from tests.support.forked import Forked
from tests.support.models.tiny_models import (
    tiny_config,
    tiny_state_dict,
    tokenizer_model_bytes,
    write_meta_llama,
    write_tiny_llama,
)
from tests.support.progress import Recorder

SHAPE: dict[str, Any] = {"heads": 4, "kv_heads": 2, "layers": 2, "seed": 9}


def write_source(kind: str, folder: Path, **shape: Any) -> Path:
    if kind.startswith("meta"):
        return write_meta_llama(folder, shards=int(kind[-1]), **shape)
    return write_tiny_llama(folder, safe=False, sharded=kind == "sharded bin", **shape)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("kind", "dtype"), [("bin", "float32"), ("sharded bin", "float16"), ("meta 1", "bfloat16"), ("meta 2", "float32")]
)
def test_every_weight_keeps_its_bits(tmp_path: Path, kind: str, dtype: str) -> None:
    found = convert(write_source(kind, tmp_path / "src", dtype=dtype, **SHAPE), tmp_path / "dst")
    shape = {name: value for name, value in SHAPE.items() if name != "seed"}
    expected = tiny_state_dict(tiny_config(dtype=dtype, **shape), seed=9)
    weights = stored(tmp_path / "dst")
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert (found.format, found.dtype, found.path) == ("safetensors", dtype, tmp_path / "dst")


@pytest.mark.parametrize("kind", ["bin", "meta 2"])
def test_the_folder_loads_in_transformers_alone_and_answers_the_same(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = write_source(kind, tmp_path / "src", **SHAPE)
    convert(source, tmp_path / "dst")
    ids = torch.tensor([[1, 5, 9, 77]])
    ours = load(OpenedModel.of(ModelFolder(source, "src")), ModelSpec(dtype="float32")).model(ids).logits
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "dst", local_files_only=True, output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(model(ids).logits, ours, atol=1e-5, rtol=0)
    assert model.generation_config.eos_token_id == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dst", local_files_only=True)
    assert tokenizer("the whale")["input_ids"][:1] == [1]


def test_the_folder_has_the_standard_files(tmp_path: Path) -> None:
    source, progress = write_meta_llama(tmp_path / "llama" / "7B", **SHAPE), Recorder()
    (source / "tokenizer.model").rename(tmp_path / "llama" / "tokenizer.model")  # Shared by several sizes.
    convert(source, tmp_path / "dst", progress=progress)
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"}
    assert {file.name for file in (tmp_path / "dst").iterdir()} == names
    config = json.loads((tmp_path / "dst" / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert (config["bos_token_id"], config["eos_token_id"], config["torch_dtype"]) == (1, 2, "float32")
    settings = json.loads((tmp_path / "dst" / "tokenizer_config.json").read_text())
    assert (settings["add_bos_token"], settings["bos_token"], settings["tokenizer_class"]) == (True, "<s>", "LlamaTokenizer")
    assert (tmp_path / "dst" / "tokenizer.model").read_bytes() == tokenizer_model_bytes()
    assert (tmp_path / "dst").stat().st_mode & 0o777 == 0o777 & ~_umask()
    assert progress.labels == ["converting 7B"]
    assert (progress.finished, sum(progress.counts["converting 7B"])) == (1, progress.totals["converting 7B"])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_files_that_came_with_a_bin_checkpoint_are_kept(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "src", safe=False)
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    (source / "tokenizer_config.json").write_text('{"model_max_length": 99}')
    config = json.loads((source / "config.json").read_text()) | {
        "note": "kept",
        "transformers_weights": "pytorch_model.bin",
    }
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "dst")
    written = {file.name: json.loads(file.read_text()) for file in (tmp_path / "dst").glob("*.json")}
    del config["transformers_weights"]
    assert written == {
        "config.json": config,
        "generation_config.json": {"eos_token_id": [2, 5]},
        "tokenizer_config.json": {"add_bos_token": True, "model_max_length": 99},
    }


def test_weights_beyond_the_limit_go_to_shards_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.models.checkpoint.convert.SHARD_BYTES", 60_000)
    found = convert(write_meta_llama(tmp_path / "src", shards=2, **SHAPE), tmp_path / "dst")
    names = [file.name for file in found.files]
    assert names == [f"model-{n:05d}-of-{len(names):05d}.safetensors" for n in range(1, len(names) + 1)]
    assert len(names) == 3
    index = json.loads((tmp_path / "dst" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored(tmp_path / "dst").values())
    assert all(name in load_file(tmp_path / "dst" / file) for name, file in index["weight_map"].items())
    # A weight larger than a shard has a file of its own.
    sizes = {"a": 10, "b": 50, "c": 100, "d": 1, "e": 59}
    shards = plan_shards({name: TensorInfo("int8", (size,)) for name, size in sizes.items()}, 60)
    assert [list(shard) for shard in shards] == [["a", "b"], ["c"], ["d", "e"]]


def test_a_tied_output_matrix_is_written_once(tmp_path: Path) -> None:
    source = write_tiny_llama(tmp_path / "src", safe=False, tie=True)
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    torch.save({**state, "lm_head.weight": state["model.embed_tokens.weight"]}, source / "pytorch_model.bin")
    convert(source, tmp_path / "dst")
    assert "lm_head.weight" not in stored(tmp_path / "dst")


def test_what_cannot_be_converted_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = write_meta_llama(tmp_path / "src")
    (tmp_path / "there").mkdir()
    standard = write_tiny_llama(tmp_path / "standard")
    for src, dst, said in [
        (source, tmp_path / "there", "already exists"),
        (source, source / "params.json", "already exists"),
        (source, source, "is both source and destination"),
        (source, tmp_path / "no" / "dst", "is not a folder"),
        (source, tmp_path / "dst.gguf", "would be a GGUF file"),
        (standard, tmp_path / "dst", "is already in safetensors format"),
    ]:
        with pytest.raises(UsageError, match=said):
            convert(src, dst)
    (source / "consolidated.00.pth").write_bytes((source / "consolidated.00.pth").read_bytes()[:-1000])
    with pytest.raises(ModelError, match="truncated"):
        convert(source, tmp_path / "dst")
    assert {file.name for file in tmp_path.iterdir()} == {"src", "there", "standard"}


def run_convert(source: Path, dst: Path, prelude: str = "", **limits: int) -> Result:
    """Convert in a process of its own, after `prelude`; prints how far memory rose above where it was, in bytes, or the error.

    ru_maxrss would not do: on Linux it counts what the parent process had before it started this one.
    """
    code = f"""
import sys, torch
from pathlib import Path
from openllama_cli.errors import OlcError
from openllama_cli.models.checkpoint import convert

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines() if sys.platform == "linux" else [field + ": 0"]
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

progress = None
{prelude}
if sys.platform == "linux":
    Path("/proc/self/clear_refs").write_text("5")  # The peak so far is forgotten.
before = memory("VmRSS")
try:
    convert.convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)
except OlcError as error:
    sys.exit(f"{{error.cause}} | {{error.remedy}}")
print(memory("VmHWM") - before)
sys.exit()
"""
    run = Forked(str(source), str(dst), code=code, **limits)
    return Result(run.wait(), run.out, run.err)


def test_a_full_disk_is_an_error_of_two_lines_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on file sizes stands for a full disk: writing fails half-way in the same place, for any user."""
    source = write_meta_llama(tmp_path / "src")
    result = run_convert(source, tmp_path / "dst", file_size=100_000)
    assert result.code == 1
    assert f"no space for {tmp_path / 'dst'}" in result.messages
    assert "Traceback" not in result.messages
    assert [file.name for file in tmp_path.iterdir()] == ["src"]


def test_a_killed_conversion_leaves_no_folder_of_that_name(tmp_path: Path) -> None:
    kill_half_way = """
import os, signal
from openllama_cli.system.progress import NullProgress
class progress(NullProgress):
    left = 10
    def advance(self, count):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
progress = progress()
"""
    source = write_meta_llama(tmp_path / "src")
    result = run_convert(source, tmp_path / "dst", kill_half_way)
    assert result.code == -signal.SIGKILL
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(names) == 2
    assert names[0].startswith(".dst.")
    assert names[0].endswith(".partial")
    assert run_convert(source, tmp_path / "dst").code == 0


def test_too_little_free_space_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1_000_000))
    with pytest.raises(OlcError, match=r"16\.2 MB are needed and 1\.0 MB are free"):
        convert(write_meta_llama(tmp_path / "src"), tmp_path / "dst")


# A small conversion first: a fork maps the pages of libraries anew, which are not what is measured.
READ_LITTLE = """
from openllama_cli.models.checkpoint import tensors
tensors.READ_BEFORE_REOPENING = 16 << 20
convert.convert(Path({!r}), Path({!r}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("kind", ["meta 4", "sharded bin"])
def test_peak_memory_is_near_one_shard_and_not_the_whole(tmp_path: Path, kind: str) -> None:
    source = write_source(kind, tmp_path / "src", heads=64, kv_heads=64, intermediate=1376, layers=16, dtype="float16")
    files = [file.stat().st_size for file in source.iterdir() if file.suffix in (".pth", ".bin")]
    assert sum(files) > 100_000_000
    small = write_source(kind, tmp_path / "small")
    result = run_convert(source, tmp_path / "dst", READ_LITTLE.format(str(small), str(tmp_path / "small-dst")))
    assert result.code == 0, result.messages
    assert int(result.text) < sum(files) * 0.7
