"""--quantize from the command line: what it says, what it refuses, and its copies in `olc models`."""

import json
import shutil
from pathlib import Path

import pytest

from openllama_cli.models.catalogue import CATALOGUE
from openllama_cli.models.hub.cache import repo_folder
from openllama_cli.models.quantize.copies import list_copies
from openllama_cli.native import library
from tests.conftest import Olc
from tests.support.models.tiny_models import write_tiny_llama


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def test_complete_says_what_it_computed_with(olc: Olc, tiny_model: Path) -> None:
    run = olc("complete", "x", "-m", str(tiny_model), "--device", "cpu", "--quantize", "int8", "-n", "4", "--stats", "--json")
    assert run.code == 0
    made_with = json.loads(run.text)["olc"]
    assert made_with["dtype"] == "int8"
    assert made_with["activation_dtype"] in ("bfloat16", "float32")
    own = library.library()
    kernels = f" {own.tier.label}" if own else ""
    assert made_with["forward"] == f"lean int8{kernels} forward pass"
    assert f"int8 weights, {made_with['activation_dtype']} activations" in run.messages


def test_a_batch_of_another_quantization_is_not_gone_on_with(olc: Olc, tiny_model: Path, tmp_path: Path) -> None:
    rows, output = tmp_path / "rows.txt", tmp_path / "out.jsonl"
    rows.write_text("one\ntwo\n")
    command = ["batch", str(rows), "-o", str(output), "-m", str(tiny_model), "--device", "cpu", "-n", "2"]
    assert olc(*command, "--quantize", "int8").code == 0
    again = olc(*command, "--quantize", "int4")
    assert again.code != 0
    assert "--quantize was int8, now int4" in again.messages


def test_copies_are_listed_and_removed_by_their_names_there_also_those_of_folders_that_are_gone(
    olc: Olc, refused: Olc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate(("gone", "moved", "here")):
        write_tiny_llama(tmp_path / folder, seed=seed)
    for folder, method in (("./gone", "int8"), ("./gone", "int4"), ("./moved", "int8"), ("./here", "int8"), ("./here", "int4")):
        assert olc("complete", "x", "-m", folder, "--device", "cpu", "--quantize", method, "-n", "1").code == 0
    shutil.rmtree("gone")
    shutil.rmtree("moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert olc("models", "rm", "./here", "--yes").code != 0  # From here that name is another folder's.

    def left(*name: str) -> list[tuple[str, str]]:
        if name:
            assert olc("models", "rm", *name, "--yes").code == 0
        return [(copy.model, copy.method) for copy in list_copies()]

    every = [("./gone", "int4"), ("./gone", "int8"), ("./here", "int4"), ("./here", "int8"), ("./moved", "int8")]
    assert left() == every
    assert left(str(tmp_path / "moved")) == every[:4]
    assert left("./gone int8") == [every[0], *every[2:4]]
    assert left("./gone") == every[2:4]
    assert left(f"{tmp_path / 'here'} int4") == [every[3]]
    here = str(tmp_path / "here")
    assert "\t./here int8\t" in olc("models", "list").text
    (listed,) = json.loads(olc("models", "list", "--json").text)["quantised"]
    assert (listed["method"], listed["folder"]) == ("int8", here)
    assert "--yes" in refused("models", "rm", here).messages
    assert json.loads(olc("models", "rm", here, "--yes", "--json").text)["freed_bytes"] == listed["bytes"]
    assert (left(), (tmp_path / "here" / "model.safetensors").is_file()) == ([], True)
    refused("models", "rm", here, "--yes")


def test_a_copy_of_another_installations_demo_is_removed_with_this_ones(olc: Olc, tmp_path: Path) -> None:
    assert olc("complete", "x", "-m", "demo", "--device", "cpu", "--quantize", "int8", "-n", "1").code == 0
    (copy,) = list_copies()
    about = Path(copy.path) / "about.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"folder": str(tmp_path / "other" / "demo_model" / "weights")}))
    removed = olc("models", "rm", "demo", "--yes")
    assert "removed 1 quantized copy of demo: " in removed.text
    assert list_copies() == []


@pytest.mark.parametrize("gone", [False, True])
def test_a_model_of_the_hub_goes_with_its_copies_which_can_also_be_removed_after_it(olc: Olc, gone: bool) -> None:
    repo_id, commit = CATALOGUE["3b-v2"].repo_id, "c" * 40
    assert repo_id is not None
    repo = repo_folder(repo_id)
    write_tiny_llama(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    revision = ["--revision", commit] if gone else []
    assert olc("complete", "x", "-m", "3b-v2", *revision, "--device", "cpu", "--quantize", "int8", "-n", "1").code == 0
    (copy,) = list_copies()
    assert (copy.repo_id, copy.revision) == (repo_id, commit)
    if gone:
        shutil.rmtree(repo)
    run = olc("models", "rm", "3b-v2", "--yes")
    assert run.code == 0
    assert f"removed {'1 quantized copy of 3b-v2' if gone else f'{repo_id} and 1 quantized copy'}: " in run.text
    assert list_copies() == []
    assert not repo.exists()
