"""The cache on disk: what is whole, what is listed, and what removing frees. No network anywhere here."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from openllama_cli.errors import HubError
from openllama_cli.models.hub.cache import cached, cached_model, disk_bytes, list_cached, remove, repo_folder, snapshot

CONFIG = b'{"model_type": "llama"}'
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(repo_id: str, commit: str, files: dict[str, bytes], ref: str | None = "main") -> Path:
    """Put a revision into the cache as huggingface_hub does."""
    repo = repo_folder(repo_id)
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    for name, content in files.items():
        blob = repo / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (folder / name).symlink_to(f"../../blobs/{blob.name}")
    if ref is not None:
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return folder


SMALL = {"config.json": CONFIG, "tokenizer.model": b"t"}
WHOLE = SMALL | {"model.safetensors": b"w" * 1000}
INDEX = json.dumps({"weight_map": {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}}).encode()


def test_branch_commit_and_main_are_found() -> None:
    folder = put("org/a", OLD, WHOLE)
    (folder.parent.parent / "refs" / "refs").mkdir()
    (folder.parent.parent / "refs" / "refs" / "v1").write_text(OLD)
    assert [cached("org/a", revision) for revision in (None, "main", OLD, "refs/v1")] == [folder] * 4
    assert cached("org/a", "other") is None
    assert cached("org/b") is None


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (WHOLE, ()),
        (WHOLE | {"model.safetensors.index.json": b"{}"}, ()),
        ({"config.json": CONFIG, "tokenizer.json": b"t", "pytorch_model.bin": b"w"}, ()),
        ({"params.json": b"{}", "tokenizer.model": b"t", "consolidated.00.pth": b"w"}, ()),
        ({"config.json": CONFIG}, ("tokenizer.model", "the weights")),
        (SMALL, ("the weights",)),
        ({"tokenizer.model": b"t", "model.safetensors": b"w"}, ("config.json",)),
        (SMALL | {"pytorch_model.bin.index.json": INDEX, "pytorch_model-1.bin": b"1"}, ("pytorch_model-2.bin",)),
        (SMALL | {"pytorch_model.bin.index.json": b"{"}, ("pytorch_model.bin.index.json",)),
    ],
)
def test_model_is_whole_only_with_all_files_its_index_names(files: dict[str, bytes], missing: tuple[str, ...]) -> None:
    folder = put("org/a", OLD, files)
    (folder / "generation_config.json").symlink_to("gone")
    assert (cached("org/a") == folder) == (not missing)
    model = cached_model("org/a")
    assert model is not None
    assert model.missing == missing


def test_llama_models_are_listed_and_others_not(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("org/llama", OLD, WHOLE)
    put("Org/meta", OLD, {"params.json": b"{}", "tokenizer.model": b"t", "consolidated.00.pth": b"w"})
    put("org/half", OLD, {"config.json": CONFIG})
    put("org/gpt", OLD, WHOLE | {"config.json": b'{"model_type": "gpt2"}'})
    put("org/odd", OLD, WHOLE | {"config.json": b"\xff"})
    (cache / "datasets--org--data" / "snapshots").mkdir(parents=True)
    (cache / "models--org--empty" / "refs").mkdir(parents=True)
    (cache / "CACHEDIR.TAG").write_text("")
    started = repo_folder("org/started") / "blobs" / f"{OLD}.olc.incomplete"
    started.parent.mkdir(parents=True)
    started.write_bytes(b"x" * 500)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache / "nowhere"))
    assert list_cached() == []
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    assert [(model.repo_id, model.complete, model.bytes) for model in list_cached()] == [
        ("org/half", False, len(CONFIG) + 40),
        ("org/llama", True, 1001 + len(CONFIG) + 40),
        ("Org/meta", True, 4 + 40),
        ("org/started", False, 500),
    ]


def test_files_that_two_revisions_share_count_once() -> None:
    put("org/a", OLD, WHOLE, ref=None)
    put("org/a", NEW, WHOLE | {"tokenizer.model": b"t2"})
    model = cached_model("org/a")
    assert model is not None
    assert set(model.revisions) == {OLD, NEW}
    assert model.revision == NEW
    assert model.bytes == 1000 + len(CONFIG) + 1 + 2 + 40


def test_removing_one_revision_keeps_what_the_other_uses() -> None:
    put("org/a", OLD, WHOLE | {"model.safetensors": b"v" * 700}, ref="old")
    put("org/a", NEW, WHOLE)
    assert remove("org/a", "old") == 700 + 40
    assert snapshot("org/a", OLD) is None
    new = cached("org/a")
    assert new is not None
    assert {file.name: file.read_bytes() for file in new.iterdir()} == WHOLE
    remove("org/a", NEW)
    assert not repo_folder("org/a").exists(), "the last one takes the folder along"


def test_removing_a_model_frees_all_of_it_with_partial_files(cache: Path) -> None:
    put("org/a", OLD, WHOLE, ref=None)
    put("org/a", NEW, WHOLE)
    put("org/copy-of-a", NEW, WHOLE)
    (repo_folder("org/a") / "blobs" / "x.olc.incomplete").write_bytes(b"x" * 300)
    (cache / ".locks" / "models--org--a").mkdir(parents=True)
    before = disk_bytes(cache)
    freed = remove("org/a")
    assert freed == before - disk_bytes(cache) == 1000 + len(CONFIG) + 1 + 300 + 40
    assert not repo_folder("org/a").exists()
    assert not (cache / ".locks" / "models--org--a").exists()
    assert cached("org/copy-of-a") is not None, "a copy has the same commits"


def test_broken_cache_folder_can_be_removed_whole() -> None:
    folder = put("org/a", OLD, WHOLE)
    put("org/a", NEW, WHOLE | {"tokenizer.model": b"t2"})
    (folder / "tokenizer.model").resolve().unlink()
    with pytest.raises(HubError, match="cannot remove revision") as caught:
        remove("org/a", OLD)
    assert caught.value.remedy == "remove all of it: olc models rm --yes org/a"
    remove("org/a")
    assert not repo_folder("org/a").exists()


def test_removing_what_is_not_there() -> None:
    for revision in (None, "main"):
        with pytest.raises(HubError, match="not in the cache"):
            remove("org/a", revision)
    put("org/a", OLD, WHOLE)
    with pytest.raises(HubError, match="revision v9 of org/a is not in the cache"):
        remove("org/a", "v9")


def test_neither_revision_nor_ref_file_leads_out_of_the_cache() -> None:
    put("org/a", OLD, WHOLE)
    for revision in ("../../../etc", "/etc", ".", "..", "a//b"):
        assert snapshot("org/a", revision) is None
    (repo_folder("org/a") / "refs" / "main").write_text("../../..")
    assert snapshot("org/a") is None


def test_pipe_in_the_place_of_a_ref_is_not_waited_for() -> None:
    put("org/a", NEW, WHOLE, ref=None)
    refs = repo_folder("org/a") / "refs"
    refs.mkdir()
    os.mkfifo(refs / "main")
    assert snapshot("org/a") is None
