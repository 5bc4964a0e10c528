"""`olc models` as its users run it: a process of its own, a real Hub on loopback, stdout and stderr apart."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.forked import Forked, fork
from tests.support.hub_server import HubServer
from tests.support.hubs import CONFIG
from tests.support.tiny_models import write_meta_llama, write_tiny_llama

OLC = (sys.executable, "-m", "openllama_cli", "models")
# huggingface_hub does so when it is imported.
READ_THE_ENVIRONMENT_AGAIN = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
    del sys.modules[name]
"""
WEIGHTS = os.urandom(3_000_000)
FILES = {"config.json": CONFIG, "tokenizer.model": b"pieces", "model.safetensors": WEIGHTS}


class Home:
    """The environment of one user: settings and cache in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "OLC_", "XDG_"))}
        self.folder = folder
        self.env = kept | {
            "HF_HOME": str(folder / "hf"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "HF_HUB_ETAG_TIMEOUT": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_ENDPOINT": "http://127.0.0.1:1",
        }

    def olc(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        run = Forked("models", *arguments, env=self.env, cwd=self.folder, code=READ_THE_ENVIRONMENT_AGAIN)
        done = subprocess.CompletedProcess(run, run.wait(), run.out.decode(), run.err.decode())
        assert done.returncode == expect, done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.olc(*arguments, "--json").stdout)

    def pull(self, name: str) -> Path:
        return Path(self.olc("pull", name).stdout.strip())

    def listed(self, name: str) -> Any:
        return next(model for model in self.json("list")["models"] if name in (model["alias"], model["repo_id"]))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def server(home: Home) -> Iterator[HubServer]:
    with HubServer() as running:
        home.env["HF_ENDPOINT"] = running.url
        yield running


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama", dtype="float16", sharded=True)


def two_lines(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("  fix: ")
    return done.stderr


def test_fresh_machine_lists_the_catalogue_without_network(home: Home) -> None:
    document = home.json("list")
    assert [model["alias"] for model in document["models"]] == ["demo", "3b-v2", "7b-v2", "3b", "7b", "13b"]
    assert (document["default"], document["chosen_by"]) == ("demo", "fallback")
    assert set(document["models"][1]) == {
        *("alias", "repo_id", "description", "parameters", "download_bytes", "cached_bytes"),
        *("revision", "path", "state", "default"),
    }
    lines = [line.split("\t") for line in home.olc("list").stdout.splitlines()]
    assert {len(line) for line in lines} == {7}
    assert ["", "3b-v2", "3.43 B", "6.9 GB", "", "not downloaded", "openlm-research/open_llama_3b_v2"] in lines


def test_pull_list_and_remove_a_model(home: Home, server: HubServer) -> None:
    commit = server.add("openlm-research/open_llama_3b", FILES)
    pulled = home.olc("pull", "3b")
    folder = Path(pulled.stdout.removesuffix("\n"))
    assert folder.name == commit
    assert pulled.stderr.startswith("downloading openlm-research/open_llama_3b: 3.0 MB into ")
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

    assert "--yes" in two_lines(home.olc("rm", "3b", expect=2))
    assert folder.exists(), "nobody could answer, so nothing was removed"
    removed = home.json("rm", "3b", "--yes")
    assert removed["freed_bytes"] == listed["cached_bytes"]
    assert home.listed("3b")["state"] == "not downloaded"
    assert "not in the cache" in two_lines(home.olc("rm", "3b", "--yes", expect=1))


@pytest.mark.parametrize(("answer", "left"), [("y", False), ("n", True), ("", True)])
def test_rm_asks_on_a_terminal(home: Home, server: HubServer, answer: str, left: bool) -> None:
    server.add("org/tiny", FILES)
    folder = home.pull("org/tiny")
    mine, theirs = pty.openpty()
    with subprocess.Popen([*OLC, "rm", "org/tiny"], env=home.env, stdin=theirs, stderr=subprocess.PIPE, text=True) as asking:
        os.write(mine, f"{answer}\n".encode())
        _, err = asking.communicate(timeout=30)
    os.close(mine)
    os.close(theirs)
    assert asking.returncode == 0
    assert "Remove org/tiny (3.0 MB) from the cache?" in err
    assert folder.exists() == left


def test_rm_of_one_revision_keeps_the_other(home: Home, server: HubServer) -> None:
    old = server.add("org/tiny", FILES | {"model.safetensors": b"old" * 1000})
    home.olc("pull", "org/tiny")
    server.add("org/tiny", FILES)
    folder = home.pull("org/tiny")
    assert home.json("rm", "org/tiny", "--revision", old, "--yes")["freed_bytes"] == 3000
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES


def test_demo_and_folders_cannot_be_pulled_or_removed(home: Home) -> None:
    for verb in ("pull", "rm"):
        assert "demo" in two_lines(home.olc(verb, "demo", expect=2))
        assert "folder" in two_lines(home.olc(verb, ".", expect=2))
    assert "did you mean 7b-v2?" in two_lines(home.olc("pull", "open_llama_7b_v2", expect=1))


def test_killed_pull_continues_where_it_stopped(home: Home, server: HubServer) -> None:
    commit = server.add("org/tiny", FILES)
    server.throttle = 3_000_000
    with subprocess.Popen([*OLC, "pull", "org/tiny"], env=home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        deadline = time.monotonic() + 30
        partial = None
        while partial is None or partial.stat().st_size < 800_000:
            assert time.monotonic() < deadline
            time.sleep(0.005)
            found = (home.folder / "hf/hub").glob("*/blobs/*.olc.incomplete")
            partial = next((file for file in found if len(file.name) > 64), None)
        first.send_signal(signal.SIGKILL)
    kept = partial.stat().st_size
    assert 800_000 <= kept < len(WEIGHTS)
    listed = home.listed("org/tiny")
    assert (listed["state"], listed["cached_bytes"] >= kept) == ("incomplete", True)

    server.throttle = None
    folder = home.pull("org/tiny")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert folder.name == commit
    assert [seen.range for seen in server.downloads("model.safetensors")] == [None, f"bytes={kept}-"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["org/absent"], "no model org/absent"),
        (["org/tiny", "--revision", "v9"], "no revision v9"),
        (["org/gated"], "gated"),
        (["org/empty"], "no model weights"),
    ],
)
def test_pull_fails_in_two_lines(home: Home, server: HubServer, arguments: list[str], says: str) -> None:
    server.add("org/tiny", FILES)
    server.add("org/gated", FILES, gated=True)
    server.add("org/empty", {"README.md": b""})
    assert says in two_lines(home.olc("pull", *arguments, expect=1))


def test_pull_without_a_hub_fails_soon(home: Home, server: HubServer) -> None:
    home.env["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE" in two_lines(home.olc("pull", "3b", expect=1))
    del home.env["HF_HUB_OFFLINE"]
    start = time.monotonic()
    server.hang = True
    assert "did not answer" in two_lines(home.olc("pull", "3b", expect=1))
    home.env["HF_ENDPOINT"] = "http://127.0.0.1:1"
    assert "cannot reach 127.0.0.1:1" in two_lines(home.olc("pull", "3b", expect=1))
    assert time.monotonic() - start < 20


def test_progress_is_shown_on_a_terminal_only_and_never_on_stdout(home: Home, server: HubServer) -> None:
    server.add("org/tiny", FILES)
    server.throttle = 6_000_000
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        [*OLC, "pull", "org/tiny"], env=home.env | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as pulling:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # How a terminal ends.
            while chunk := os.read(mine, 4096):
                shown += chunk
        out, _ = pulling.communicate(timeout=30)
    os.close(mine)
    assert b"model.safetensors" in shown
    assert b"MB" in shown
    assert Path(out.strip()).is_dir()


def test_info_of_a_model_that_is_not_here_is_what_is_published(home: Home) -> None:
    document = home.json("info", "7b-v2")
    assert document["state"] == "not downloaded"
    assert document["parameters"] == 6_738_415_616
    assert (document["layers"], document["hidden_size"], document["context"]) == (32, 4096, 2048)
    assert (document["format"], document["dtype"], document["files"], document["path"]) == ("bin", "float16", None, None)
    assert "olc models pull 7b-v2" in home.olc("info", "7b-v2").stdout
    assert "olc models pull org/x" in two_lines(home.olc("info", "org/x", expect=1))


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
    text = home.olc("info", "org/llama").stdout
    assert f"revision\t{commit}" in text
    assert "sentencepiece bpe" in text


def test_info_of_an_incomplete_model_names_what_is_missing(home: Home, server: HubServer, llama: Path) -> None:
    server.add("org/llama", llama)
    folder = home.pull("org/llama")
    (folder / "model-00002-of-00002.safetensors").unlink()
    document = home.json("info", "org/llama")
    assert (document["state"], document["missing"]) == ("incomplete", ["model-00002-of-00002.safetensors"])
    shown = home.olc("info", "org/llama").stdout
    assert "(missing model-00002-of-00002.safetensors); continue with: olc models pull org/llama" in shown


def test_default_is_set_shown_and_forgotten(home: Home, llama: Path) -> None:
    assert home.olc("default").stdout == "demo\n"
    done = home.olc("default", "3b-v2")
    assert (done.stdout, done.stderr) == ("", "3b-v2 is not downloaded yet: olc models pull 3b-v2\n")
    assert home.olc("default").stdout == "3b-v2\n"
    assert home.listed("3b-v2")["default"] is True
    (home.folder / "link").symlink_to(llama)
    home.olc("default", "./link")
    assert home.olc("default").stdout == f"{llama}\n", "a folder is stored so that it is found from everywhere"
    assert home.json("list")["models"][-1]["path"] == str(llama)
    assert home.json("info")["path"] == str(llama)
    home.env["OLC_MODEL"] = "7b"
    assert home.olc("default").stdout == "7b\n"
    assert "OLC_MODEL" in home.olc("default", "3b").stderr
    del home.env["OLC_MODEL"]
    home.olc("default", "--unset")
    assert home.olc("default").stdout == "demo\n"
    assert "did you mean 13b?" in two_lines(home.olc("default", "open_llama_13b", expect=1))
    two_lines(home.olc("default", "3b", "--unset", expect=2))


def test_convert_meta_and_bin_to_safetensors(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.folder)
    meta = write_meta_llama(tmp_path / "meta", shards=2)
    document = json.loads(fork("models", "convert", str(meta), "from-meta", "--json").out)
    assert document["files"] == ["model.safetensors"]
    write_tiny_llama(tmp_path / "bin", safe=False)
    assert fork("models", "convert", "./bin", "from-bin").text == "from-bin\n"
    one, other = home.json("info", "./from-meta"), home.json("info", "./from-bin")
    assert one["format"] == other["format"] == "safetensors"
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("from-meta", "from-bin"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    two_lines(home.olc("convert", "./bin", "from-bin", expect=2))
    two_lines(home.olc("convert", "./nowhere", "x", expect=1))


@pytest.mark.parametrize("arguments", [["list"], ["info", "3b"], ["default"], ["rm", "3b", "-y"], ["pull", "gpt9"], ["--help"]])
def test_nothing_heavy_is_imported(home: Home, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom openllama_cli.cli import main\n"
        f"try: main(['models', *{arguments!r}])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=home.env, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"
