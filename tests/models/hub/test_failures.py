"""Pulling from a Hub on loopback: each way it can fail."""

import hashlib
import socket
from pathlib import Path

import pytest

from openllama_cli.errors import HubError, ModelError, OlcError, UsageError
from openllama_cli.models.hub import pull as hub
from openllama_cli.models.hub.cache import cached, repo_folder
from openllama_cli.models.hub.errors import timeouts
from openllama_cli.models.model_files import largest
from tests.support.hub.fixtures import CONFIG, SMALL, WEIGHTS, WHOLE, asked, cache, index, server, tiny
from tests.support.hub.server import HubServer

__all__ = ["cache", "server", "tiny"]


def failure(repo_id: str = "org/tiny", revision: str | None = None) -> OlcError:
    with pytest.raises(OlcError) as caught:
        hub.pull(repo_id, revision)
    assert "\n" not in caught.value.cause + caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("repo_id", "revision", "token", "code", "says"),
    [
        ("openlm-research/open_llama_3b_v3", None, None, "repo_not_found", ["openlm-research/open_llama_3b_v3", "3b-v2"]),
        ("org/tiny", "v9", None, "revision_not_found", ["v9", "--revision"]),
        ("org/private", None, None, "repo_not_found", ["HF_TOKEN"]),
        ("org/tiny", None, "hf_wrong", "unauthorized", ["HF_TOKEN", "401"]),
        ("org/gated", None, None, "gated", ["/org/gated", "HF_TOKEN"]),  # The Hub answers 401.
        ("org/gated", None, "hf_nobody", "gated", ["/org/gated", "HF_TOKEN"]),  # And here 403.
        ("org/tiny", None, None, "forbidden", ["403"]),
    ],
)
def test_what_the_hub_refuses_is_named(
    server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    repo_id: str,
    revision: str | None,
    token: str | None,
    code: str,
    says: list[str],
) -> None:
    server.tokens = {"hf_nobody"}
    server.add("org/tiny", WHOLE)
    server.add("org/private", WHOLE, private=True)
    server.add("org/gated", WHOLE, gated=True)
    server.status["model.safetensors"] = [403]
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    error = failure(repo_id, revision)
    assert error.code == code
    assert all(words in f"{error.cause}\n{error.remedy}" for words in says)


def test_hub_that_refuses_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
    error = failure()
    assert error.code == "hub_unreachable"
    assert address in error.cause
    monkeypatch.setenv("HF_ENDPOINT", "huggingface")  # No address at all.
    assert "HF_ENDPOINT" in failure().remedy


def test_hub_that_never_answers_is_given_up_soon(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert timeouts().connect <= 5
    assert timeouts(download=True).read <= 30
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.3)
    server.hang = True
    error = failure()
    assert error.code == "hub_unreachable"
    assert "did not answer" in error.cause
    assert len(server.requests) == 1, "each would wait as long again"


@pytest.mark.parametrize("answer", [b"<html>sign in", b"[]", b"{}", b"null", b'{"id": "org/tiny", "sha": "../../x"}', b"\xff"])
def test_something_else_at_the_address_of_the_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(
        "tests.support.hub.server._Handler._api", lambda handler, *rest: handler._send_file("page", answer, '"x"')
    )
    assert failure().code == "not_a_hub"


def test_unreachable_hub_does_not_spoil_a_cached_model(tiny: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.pull("org/tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    notices: list[str] = []
    assert hub.pull("org/tiny", notice=notices.append) == folder
    assert "127.0.0.1:1" in notices[0]


def test_offline_uses_the_cache_or_fails_without_a_request(tiny: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.pull("org/tiny")
    tiny.requests.clear()
    for offline in (True, False):
        if not offline:
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert hub.pull("org/tiny", offline=offline) == folder
        with pytest.raises(HubError) as caught:
            hub.pull("org/other", offline=offline)
        assert (caught.value.code, "olc models pull org/other" in caught.value.remedy) == ("offline", True)
    assert tiny.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (folder / "model.safetensors").unlink()
    with pytest.raises(HubError, match=r"is incomplete in the cache \(missing the weights\)"):
        hub.pull("org/tiny", offline=True)
    assert (hub.pull("org/tiny") / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"README.md": b""}, "none of them weights"),
        ({"llama.Q4_K_M.gguf": b"", "config.json": CONFIG}, ".gguf"),
        ({"model.safetensors": b"w", "tokenizer.model": b"t"}, "no config.json"),
        ({"model.safetensors": b"w", "config.json": CONFIG}, "tokenizer.model"),
        (SMALL | {"model.safetensors.index.json": index("model-1.safetensors")}, "is missing model-1.safetensors"),
        (SMALL | {"model.safetensors.index.json": b"{"}, "damaged"),
        (SMALL | {"model.safetensors.index.json": index("../../../.bashrc")}, "damaged"),
    ],
)
def test_repository_without_a_usable_model(server: HubServer, files: dict[str, bytes], says: str) -> None:
    server.add("org/tiny", files)
    error = failure()
    assert error.code == "no_model_files"
    assert says in error.cause


def test_another_architecture_is_refused_before_its_weights(server: HubServer) -> None:
    server.add("org/tiny", WHOLE | {"config.json": b'{"model_type": "gpt2"}'})
    error = failure()
    assert isinstance(error, ModelError)
    assert "org/tiny" in error.cause
    assert "gpt2" in error.cause
    assert "model.safetensors" not in asked(server)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tokenizer.model": b"pieces"}, "not a SentencePiece model"),
        ({"tokenizer.model": b"IQ== 0\nIg== 1\n"}, "tiktoken"),
        ({"tokenizer_config.json": b'{"tokenizer_class": "XGLMTokenizer"}'}, "XGLMTokenizer"),
        ({"tokenizer_config.json": b"[]"}, "not an object"),
    ],
    ids=["junk", "tiktoken", "a class with other ids", "settings of another shape"],
)
def test_a_tokenizer_that_cannot_be_followed_is_refused_before_the_weights(
    server: HubServer, files: dict[str, bytes], says: str
) -> None:
    server.add("org/tiny", WHOLE | files)
    for _ in range(2):  # Also where the small files are here already.
        error = failure()
        assert isinstance(error, ModelError)
        assert error.cause.startswith("org/tiny/tokenizer")
        assert says in error.cause
    assert "model.safetensors" not in asked(server)
    assert cached("org/tiny") is None
    server.add("org/tiny", WHOLE)
    assert (hub.pull("org/tiny") / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["tokenizer.model", "generation_config.json", "model.safetensors.index.json"])
def test_what_is_too_large_to_be_loaded_is_not_pulled(server: HubServer, name: str) -> None:
    content = index("a.safetensors") if name.endswith("index.json") else SMALL[name]
    padded = content + b" " * (largest(name) + 1 - len(content))
    server.add(
        "org/tiny", SMALL | {"a.safetensors": WEIGHTS, "model.safetensors.index.json": index("a.safetensors"), name: padded}
    )
    error = failure()
    assert error.code == "not_a_hub"
    assert name in error.cause
    assert server.downloads(name) == []
    server.add("org/tiny", SMALL | {"a.safetensors": WEIGHTS, "model.safetensors.index.json": index("a.safetensors")})
    assert (hub.pull("org/tiny") / "a.safetensors").read_bytes() == WEIGHTS


def test_model_larger_than_the_disk_is_refused_with_both_numbers(tiny: HubServer) -> None:
    tiny.declared["model.safetensors"] = 10**18
    error = failure()
    assert error.code == "disk_full"
    assert "1000000000 GB" in error.cause
    assert "GB free" in error.cause
    assert tiny.downloads("model.safetensors") == []


def test_disk_that_fills_up_while_pulling(tiny: HubServer) -> None:
    # Every write to /dev/full fails as on a full disk.
    partial = repo_folder("org/tiny") / "blobs" / f"{hashlib.sha256(WEIGHTS).hexdigest()}.olc.incomplete"
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/dev/full")
    error = failure()
    assert error.code == "disk_full"
    assert "model.safetensors" in error.cause
    partial.unlink()
    assert (hub.pull("org/tiny") / "model.safetensors").read_bytes() == WEIGHTS


def test_cache_that_cannot_be_written(tiny: HubServer, cache: Path) -> None:
    cache.write_text("")
    error = failure()
    assert (error.code, "HF_HOME" in error.remedy) == ("disk", True)


def test_no_revision_or_checksum_leads_out_of_the_cache(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for revision in ("../../x", "/etc", "", "a/../b"):
        assert isinstance(failure(revision=revision), UsageError)
    assert server.requests == []
    monkeypatch.setattr("tests.support.hub.server._git", lambda content: "../../../evil")
    server.add("org/tiny", WHOLE)
    assert failure().code == "checksum", "none, and the weights are not any"
    blobs = repo_folder("org/tiny") / "blobs"
    assert {file.resolve().parent for file in blobs.iterdir()} == {blobs.resolve()}
