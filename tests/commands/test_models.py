"""`olc models` as its users run it, with a real Hub on loopback: what it writes, what it leaves on the disk, how it exits."""

import json
import os
import pty
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Olc, Result
from tests.support.hub.fixtures import SMALL, cache, server
from tests.support.hub.server import HubServer
from tests.support.models.gguf_files import write_gguf
from tests.support.models.tiny_models import write_tiny_llama
from tests.support.terminals import Terminal

__all__ = ["cache", "server"]
WEIGHTS = os.urandom(3_000_000)
FILES = {"config.json": SMALL["config.json"], "tokenizer.model": SMALL["tokenizer.model"], "model.safetensors": WEIGHTS}


class Home:
    """`olc models` of one user, whose settings and cache are in a folder of their own."""

    def __init__(self, folder: Path, olc: Olc, refused: Olc) -> None:
        self.folder, self._olc, self._refused = folder, olc, refused

    def olc(self, *arguments: str, expect: int = 0, **options: Any) -> Result:
        done = self._olc("models", *arguments, **options)
        assert done.code == expect, done.messages
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.olc(*arguments, "--json").text)

    def pull(self, name: str) -> Path:
        return Path(self.olc("pull", name).text.strip())

    def listed(self, name: str) -> Any:
        return next(model for model in self.json("list")["models"] if name in (model["alias"], model["repo_id"]))

    def refused(self, *arguments: str, code: int, **options: Any) -> str:
        """The two lines of an error."""
        return self._refused("models", *arguments, code=code, **options).messages


@pytest.fixture
def home(tmp_path: Path, olc: Olc, refused: Olc, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path, olc, refused)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama", dtype="float16", sharded=True)


def test_fresh_machine_lists_the_catalogue_without_network(home: Home) -> None:
    document = home.json("list")
    assert [model["alias"] for model in document["models"]] == ["demo", "3b-v2", "7b-v2", "3b", "7b", "13b"]
    assert (document["default"], document["chosen_by"]) == ("demo", "fallback")
    assert set(document["models"][1]) == {
        *("alias", "repo_id", "file", "description", "parameters", "download_bytes", "cached_bytes"),
        *("revision", "path", "state", "default"),
    }
    lines = [line.split("\t") for line in home.olc("list").text.splitlines()]
    assert {len(line) for line in lines} == {7}
    assert ["", "3b-v2", "3.43 B", "6.9 GB", "", "not downloaded", "openlm-research/open_llama_3b_v2"] in lines


def test_pull_list_and_remove_a_model(home: Home, server: HubServer) -> None:
    commit = server.add("openlm-research/open_llama_3b", FILES)
    pulled = home.olc("pull", "3b")
    folder = Path(pulled.text.removesuffix("\n"))
    assert folder.name == commit
    assert pulled.messages.startswith("downloading openlm-research/open_llama_3b: 3.0 MB into ")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES

    size = sum(map(len, FILES.values()))
    listed = home.listed("3b")
    assert (listed["state"], listed["revision"], listed["path"]) == ("ready", commit, str(folder))
    assert size <= listed["cached_bytes"] <= size + 100
    assert home.json("pull", "3b") == {
        "repo_id": "openlm-research/open_llama_3b",
        "revision": commit,
        "path": str(folder),
        "bytes": size,
    }

    assert "--yes" in home.refused("rm", "3b", code=2)
    assert folder.exists(), "nobody could answer, so nothing was removed"
    removed = home.json("rm", "3b", "--yes")
    assert removed["freed_bytes"] == listed["cached_bytes"]
    assert home.listed("3b")["state"] == "not downloaded"
    assert "not in the cache" in home.refused("rm", "3b", "--yes", code=1)


def test_gguf_files_and_adapters_in_the_cache_are_listed(home: Home, server: HubServer, tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "x.gguf", layers=1).read_bytes()
    other = write_gguf(tmp_path / "y.gguf", layers=1, architecture="qwen2").read_bytes()
    server.add("org/tiny-GGUF", {"a.Q8_0.gguf": content, "b.gguf": content, "c.gguf": other})
    config = b'{"peft_type": "LORA", "base_model_name_or_path": "openlm-research/open_llama_3b"}'
    server.add("org/lora", {"adapter_config.json": config, "adapter_model.safetensors": b"w"})
    for name in ("org/tiny-GGUF:a.Q8_0.gguf", "org/lora"):
        home.pull(name)
    other_kind = home.olc("pull", "org/tiny-GGUF:c.gguf", expect=1).messages
    assert "error: org/tiny-GGUF:c.gguf holds a qwen2 model, not a Llama\n  fix: " in other_kind
    lines = [line.split("\t") for line in home.olc("list").text.splitlines()]
    rows = {line[1]: (line[2], line[5], line[6]) for line in lines}
    assert rows["org/lora"] == ("", "ready", "an adapter in the cache")
    assert rows["org/tiny-GGUF:a.Q8_0.gguf"][1:] == ("ready", "a GGUF file in the cache")
    assert not any("c.gguf" in name or name == "org/tiny-GGUF" for name in rows)
    listed = home.listed("org/tiny-GGUF")
    assert (listed["file"], listed["cached_bytes"]) == ("a.Q8_0.gguf", len(content))
    assert "name one of them, such as org/tiny-GGUF:a.Q8_0.gguf" in home.refused("info", "org/tiny-GGUF", code=1)
    told = home.olc("info", "org/lora").text
    assert "download it with: olc models pull openlm-research/open_llama_3b\n" in told
    assert "made for openlm-research/open_llama_3b\n" in told


def test_rm_asks_on_a_terminal(home: Home, server: HubServer) -> None:
    server.add("org/tiny", FILES)
    folder = home.pull("org/tiny")
    mine, theirs = pty.openpty()
    for answer, left in (("n", True), ("", True), ("y", False)):
        os.write(mine, f"{answer}\n".encode())
        assert "Remove org/tiny (3.0 MB) from the cache?" in home.olc("rm", "org/tiny", stdin=theirs).messages
        assert folder.exists() == left
    os.close(mine)
    os.close(theirs)


def test_rm_of_one_revision_keeps_the_other(home: Home, server: HubServer) -> None:
    old = server.add("org/tiny", FILES | {"model.safetensors": b"old" * 1000})
    home.pull("org/tiny")
    server.add("org/tiny", FILES)
    folder = home.pull("org/tiny")
    assert home.json("rm", "org/tiny", "--revision", old, "--yes")["freed_bytes"] == 3000
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES


def test_demo_and_folders_cannot_be_pulled_or_removed(home: Home) -> None:
    for verb in ("pull", "rm"):
        assert "demo" in home.refused(verb, "demo", code=2)
        assert "folder" in home.refused(verb, ".", code=2)
    assert "did you mean 7b-v2?" in home.refused("pull", "open_llama_7b_v2", code=1)


def test_pull_fails_in_two_lines(home: Home, server: HubServer) -> None:
    server.add("org/tiny", FILES)
    assert "no revision v9" in home.refused("pull", "org/tiny", "--revision", "v9", code=1)


def test_progress_is_shown_on_a_terminal_only_and_never_on_stdout(home: Home, server: HubServer) -> None:
    server.add("org/tiny", FILES)
    server.throttle = 6_000_000
    with Terminal("models", "pull", "org/tiny", columns=100, stdout=False, HF_ENDPOINT=server.url) as terminal:
        shown = terminal.read()
    assert "model.safetensors" in shown
    assert "MB" in shown
    assert Path(terminal.process.out.decode().strip()).is_dir()
    shutil.rmtree(home.folder / "hub")
    assert home.olc("pull", "org/tiny").messages.count("\n") == 1, "that it is downloaded, and to where"


def test_info_of_a_model_that_is_not_here_is_what_is_published(home: Home) -> None:
    document = home.json("info", "7b-v2")
    assert document["state"] == "not downloaded"
    assert document["parameters"] == 6_738_415_616
    assert (document["layers"], document["hidden_size"], document["context"]) == (32, 4096, 2048)
    assert (document["format"], document["dtype"], document["files"], document["path"]) == ("bin", "float16", None, None)
    assert "olc models pull 7b-v2" in home.olc("info", "7b-v2").text
    assert "olc models pull org/x" in home.refused("info", "org/x", code=1)


def test_info_of_a_folder_and_of_the_same_model_on_the_hub(home: Home, server: HubServer, llama: Path) -> None:
    import hashlib

    commit = server.add("org/llama", llama)
    home.olc("pull", "org/llama")
    here, cached = home.json("info", str(llama)), home.json("info", "org/llama")
    assert set(here) == set(cached) == set(home.json("info", "3b"))
    assert (cached["revision"], cached["repo_id"], here["revision"], here["repo_id"]) == (commit, "org/llama", None, None)
    same = ("architecture", "parameters", "context", "layers", "kv_heads", "format", "dtype", "files", "bytes", "tokenizer")
    assert {key: here[key] for key in same} == {key: cached[key] for key in same}
    assert here["parameters"] == 2 * 400 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32
    assert (here["format"], here["dtype"], here["kv_heads"], here["context"]) == ("safetensors", "float16", 2, 128)
    assert here["tokenizer"]["kind"] == "sentencepiece bpe"
    for file in here["files"]:
        assert file["sha256"] == hashlib.sha256((llama / file["name"]).read_bytes()).hexdigest()
    text = home.olc("info", "org/llama").text
    assert f"revision\t{commit}" in text
    assert "sentencepiece bpe" in text


def test_info_of_an_incomplete_model_names_what_is_missing(home: Home, server: HubServer, llama: Path) -> None:
    server.add("org/llama", llama)
    folder = home.pull("org/llama")
    (folder / "model-00002-of-00002.safetensors").unlink()
    document = home.json("info", "org/llama")
    assert (document["state"], document["missing"]) == ("incomplete", ["model-00002-of-00002.safetensors"])
    assert home.listed("org/llama")["state"] == "incomplete"
    shown = home.olc("info", "org/llama").text
    assert "(missing model-00002-of-00002.safetensors); continue with: olc models pull org/llama" in shown


def test_default_is_set_shown_and_forgotten(home: Home, llama: Path) -> None:
    assert home.olc("default").text == "demo\n"
    done = home.olc("default", "3b-v2")
    assert done.text == ""
    assert "3b-v2 is the default now, and not downloaded yet: olc models pull 3b-v2" in done.messages
    assert home.olc("default").text == "3b-v2\n"
    assert home.listed("3b-v2")["default"] is True
    (home.folder / "link").symlink_to(llama)
    home.olc("default", "./link")
    assert home.olc("default").text == f"{llama}\n", "a folder is stored so that it is found from everywhere"
    assert home.json("list")["models"][-1]["path"] == str(llama)
    assert home.json("info")["path"] == str(llama)
    environment = {"OLC_MODEL": "7b"}
    assert home.olc("default", env=environment).text == "7b\n"
    assert "OLC_MODEL" in home.olc("default", "3b", env=environment).messages
    home.olc("default", "--unset")
    assert home.olc("default").text == "demo\n"
    assert "did you mean 13b?" in home.refused("default", "open_llama_13b", code=1)
    home.refused("default", "3b", "--unset", code=2)


def test_convert_writes_a_folder_of_safetensors(home: Home, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "bin", safe=False)
    assert home.json("convert", "./bin", "from-json")["files"] == ["model.safetensors"]
    assert home.olc("convert", "./bin", "from-bin").text == "from-bin\n"
    assert home.json("info", "./from-bin")["format"] == "safetensors"
    home.refused("convert", "./bin", "from-bin", code=2)
    home.refused("convert", "./nowhere", "x", code=1)


def test_random_models_of_bench_are_listed_and_removed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.folder / "cache"))
    for name in ("110m-float16", "3b-bfloat16"):
        folder = home.folder / "cache" / "olc" / "bench" / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(5000))
    assert [model["name"] for model in home.json("list")["bench"]] == ["bench 110m float16", "bench 3b bfloat16"]
    assert "bench 3b bfloat16" in home.olc("list").text
    assert "--yes" in home.refused("rm", "bench", code=2, stdin=b"")
    assert home.json("rm", "bench 3b bfloat16", "--yes")["freed_bytes"] == 5000
    assert "5.0 kB freed" in home.olc("rm", "bench", "--yes").text
    assert home.json("list")["bench"] == []
