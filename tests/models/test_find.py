"""Which model is meant, and what each kind of name leads to."""

import os
from pathlib import Path

import pytest

from openllama_cli.errors import HubError, ModelError, OlcError, UsageError
from openllama_cli.models.catalogue import CATALOGUE
from openllama_cli.models.find import (
    choose,
    default_file,
    demo_folder,
    find,
    read_default,
    resolve,
    resolve_on_hub,
    write_default,
)
from openllama_cli.models.spec import ModelFolder, ModelSpec
from tests.support.hub.fixtures import WHOLE as FILES
from tests.support.hub.fixtures import server
from tests.support.hub.server import HubServer

__all__ = ["server"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "OLC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_flag_before_environment_before_default_before_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(None) == ("demo", "fallback")
    write_default("3b")
    assert choose(None) == ("3b", "default")
    monkeypatch.setenv("OLC_MODEL", " 7b ")
    assert choose(None) == ("7b", "environment")
    assert choose("13b") == ("13b", "flag")
    monkeypatch.setenv("OLC_MODEL", "")
    assert choose(None) == ("3b", "default")


def test_an_alias_before_a_folder_before_a_hub_id(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("demo").path == demo_folder()
    for alias, entry in CATALOGUE.items():
        assert resolve(alias).repo_id == entry.repo_id
    (home / "here/org/model").mkdir(parents=True)
    for name in ("./org/model", "org/model", str(home / "here/org/model")):
        assert resolve(name).origin == "folder"
    (home / "here/3b").mkdir()
    assert resolve("3b").origin == "hub", "an alias stays one; ./3b is the folder"
    assert resolve("./3b").origin == "folder"
    monkeypatch.setenv("HOME", str(home))
    assert resolve("~/here").path == home / "here"


def test_missing_path_and_unknown_name_are_named_and_never_asked_of_the_hub(home: Path, server: HubServer) -> None:
    for name in ("./x", "../x", "/no/such/folder", "~/x", "a/b/c", "org/", "~nobody-here/x", "C:\\models\\x"):
        with pytest.raises(ModelError) as caught:
            find(ModelSpec(model=name))
        assert name in caught.value.cause
    for name in ("gpt9", "a b", "org/na me", "x" * 5000, "org/" + "x" * 5000, "nul\0l", "é/ü", "-/x"):
        with pytest.raises(ModelError, match="not a known model"):
            find(ModelSpec(model=name))
    with pytest.raises(ModelError) as caught:
        resolve("open_llama_3b_v2")
    assert "did you mean 3b-v2?" in caught.value.remedy
    assert server.requests == []


def test_missing_folder_beside_others_is_a_path_unless_the_cache_knows_it(home: Path, server: HubServer) -> None:
    server.add("runs/step10", FILES)
    (home / "here/runs/step9").mkdir(parents=True)
    (home / "here/openlm-research").mkdir()
    with pytest.raises(ModelError, match="runs/step10 does not exist"):
        find(ModelSpec(model="runs/step10"))
    assert server.requests == []
    assert resolve("openlm-research/open_llama_3b").origin == "hub"
    (home / "here/runs/step9").rmdir()
    (home / "here/runs").rmdir()
    find(ModelSpec(model="runs/step10"))
    (home / "here/runs").mkdir()
    assert resolve("runs/step10").origin == "hub"


def test_wrong_name_from_elsewhere_says_where_it_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    write_default("./gone")
    with pytest.raises(ModelError, match=r"the default model: the folder \./gone"):
        find(ModelSpec())
    monkeypatch.setenv("OLC_MODEL", "nonsense")
    with pytest.raises(ModelError, match="OLC_MODEL: nonsense"):
        find(ModelSpec())


def test_named_hub_model_is_downloaded_once_and_then_needs_no_network(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = server.add("org/tiny", FILES)
    found = find(ModelSpec(model="org/tiny"))
    assert found == ModelFolder(found.path, "org/tiny", "hub", "org/tiny", commit, "flag")
    assert {file.name for file in found.path.iterdir()} == set(FILES)
    server.requests.clear()
    monkeypatch.setenv("OLC_MODEL", "org/tiny")
    assert find(ModelSpec()) == ModelFolder(found.path, "org/tiny", "hub", "org/tiny", commit, "environment")
    assert find(ModelSpec(model="org/tiny", offline=True)).path == found.path
    assert find(ModelSpec(model="org/tiny", revision=commit)).path == found.path
    assert server.requests == []


def test_alias_is_downloaded_from_its_repository_and_completed(server: HubServer) -> None:
    with pytest.raises(HubError) as caught:
        find(ModelSpec(model="3b-v2", offline=True))
    assert caught.value.code == "offline"
    server.add("openlm-research/open_llama_3b_v2", FILES)
    found = find(ModelSpec(model="3b-v2"))
    assert (found.name, found.repo_id) == ("3b-v2", "openlm-research/open_llama_3b_v2")
    (found.path / "tokenizer.model").unlink()
    assert (find(ModelSpec(model="3b-v2")).path / "tokenizer.model").read_bytes() == FILES["tokenizer.model"]


def test_revision_belongs_to_the_hub(home: Path) -> None:
    for name in ("demo", str(home)):
        with pytest.raises(UsageError, match="--revision v1"):
            find(ModelSpec(model=name, revision="v1"))


def test_names_for_pull_and_rm_are_on_the_hub_whatever_folders_there_are(home: Path) -> None:
    (home / "here/org/model").mkdir(parents=True)
    assert resolve_on_hub("org/model") == "org/model"
    assert resolve_on_hub("7b") == "openlm-research/open_llama_7b"
    for name in ("demo", "./org", "."):
        with pytest.raises(UsageError):
            resolve_on_hub(name)
    with pytest.raises(ModelError):
        resolve_on_hub("gpt9")


def test_a_tokenizer_alone_needs_no_weights_and_spoils_no_model(server: HubServer) -> None:
    server.add("org/tiny", FILES)
    folder = find(ModelSpec(model="org/tiny"), weights=False)
    assert (folder.path / "tokenizer.model").read_bytes() == FILES["tokenizer.model"]
    assert not (folder.path / "model.safetensors").exists()
    asked = len(server.requests)
    assert find(ModelSpec(model="org/tiny"), weights=False) == folder
    assert len(server.requests) == asked
    whole = find(ModelSpec(model="org/tiny"))
    assert (whole.path / "model.safetensors").exists()
    assert find(ModelSpec(model="org/tiny"), weights=False) == whole


def test_default_is_remembered_replaced_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_default() is None
    write_default("3b-v2")
    write_default("/models/my llama")
    assert read_default() == "/models/my llama"
    assert list(default_file().parent.iterdir()) == [default_file()], "no temporary file is left"
    write_default(None)
    write_default(None)
    for content in (b"", b"\n \n"):
        default_file().write_bytes(content)
        assert read_default() is None
    default_file().write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OlcError, match="default-model") as caught:
        read_default()
    assert str(default_file()) in caught.value.remedy
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(OlcError, match="cannot write"):
        write_default("3b")


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co/org/name",
        "https://huggingface.co/org/name/",
        "https://huggingface.co/org/name/tree/main",
        "https://huggingface.co/org/name/blob/main/config.json",
        "http://www.huggingface.co/org/name?library=transformers#usage",
        "https://hf.co/org/name",
        "huggingface.co/org/name",
        "hf://org/name",
        "org/name.git",
        "https://huggingface.co/org/name.git",
        "HTTPS://HuggingFace.co/models/org/name",
        "https://huggingface.co/org/name/discussions/3",
    ],
)
def test_pasted_address_is_the_hub_id(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(address).repo_id == resolve_on_hub(address) == "org/name"
    assert choose(address) == ("org/name", "flag")
    monkeypatch.setenv("OLC_MODEL", address)
    assert choose(None) == ("org/name", "environment")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://huggingface.co/datasets/org/name", "organization/name"),
        ("https://huggingface.co/spaces/org/name", "organization/name"),
        ("https://huggingface.co/org", "organization/name"),
        ("https://huggingface.co/", "organization/name"),
        ("https://huggingface.co/org/name/tree/v1.0", "org/name --revision v1.0"),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "org/name --revision refs/pr/1"),
        ("https://huggingface.co/org/name/tree/refs/pr/1", "org/name --revision refs/pr/1"),
    ],
)
def test_address_of_something_else_is_refused_by_name(address: str, says: str) -> None:
    for meaning in (resolve, resolve_on_hub, choose):
        with pytest.raises(UsageError) as caught:
            meaning(address)
        assert says in caught.value.remedy


@pytest.mark.parametrize("chosen_by", ["default", "environment"])
def test_model_that_is_not_here_is_named_with_what_chose_it(monkeypatch: pytest.MonkeyPatch, chosen_by: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    if chosen_by == "default":
        write_default("3b-v2")
    else:
        monkeypatch.setenv("OLC_MODEL", "3b-v2")
    for offline in (True, False):
        with pytest.raises(HubError) as caught:
            find(ModelSpec(offline=offline))
        assert caught.value.code == ("offline" if offline else "hub_unreachable")
        why = "the default model, chosen with `olc models default`" if chosen_by == "default" else "OLC_MODEL"
        assert "3b-v2" in caught.value.cause
        assert why in caught.value.cause
        assert "olc models pull" in caught.value.remedy


def test_names_of_any_length_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    from openllama_cli.models.listing import list_models

    for name in ("x" * 300, "a/" * 200, "~" * 300, "\x01", "y" * 100_000):
        monkeypatch.setenv("OLC_MODEL", name)
        with pytest.raises(ModelError):
            find(ModelSpec())
        assert list_models().models[-1].default
    for revision in ("r" * 300, "é" * 200, "a\nb", "a/" * 600):
        with pytest.raises(UsageError):
            find(ModelSpec(model="org/tiny", revision=revision))
