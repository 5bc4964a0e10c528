"""Pulling from a Hub on loopback: what is asked for, and what lands in the cache."""

from pathlib import Path

import pytest

from openllama_cli.errors import HubError
from openllama_cli.models.adapters.find import find_adapter
from openllama_cli.models.find import find
from openllama_cli.models.hub import pull as hub
from openllama_cli.models.hub.cache import cached
from openllama_cli.models.spec import ModelSpec
from tests.support.hub.fixtures import SMALL, TOKENIZER, WEIGHTS, WHOLE, asked, cache, index, server, tiny
from tests.support.hub.server import HubServer, Seen
from tests.support.models.gguf_files import write_gguf
from tests.support.models.tokenizer_files import save

__all__ = ["cache", "server", "tiny"]

SHARDS = {"model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2"}
SHARDED = SHARDS | {"model.safetensors.index.json": index(*SHARDS)}


def test_the_cache_is_shared_with_every_hugging_face_tool(server: HubServer, cache: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

    commit = server.add("org/tiny", WHOLE)
    hf_hub_download("org/tiny", "model.safetensors", cache_dir=cache, endpoint=server.url)
    before = len(server.downloads("model.safetensors"))
    folder = hub.pull("org/tiny")
    assert folder.name == commit
    assert len(server.downloads("model.safetensors")) == before, "it was there"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == WHOLE
    assert snapshot_download("org/tiny", cache_dir=cache, local_files_only=True) == str(folder)
    found = hf_hub_download("org/tiny", "model.safetensors", cache_dir=cache, local_files_only=True)
    assert Path(found).read_bytes() == WEIGHTS
    scan = scan_cache_dir(cache)
    assert not scan.warnings
    assert [(repo.repo_id, {ref for rev in repo.revisions for ref in rev.refs}) for repo in scan.repos] == [
        ("org/tiny", {"main"})
    ]


@pytest.mark.parametrize(
    ("others", "weights"),
    [
        ({"model.safetensors": b"s", "pytorch_model.bin": b"b"}, {"model.safetensors"}),
        ({"pytorch_model.bin": b"b", "consolidated.00.pth": b"m", "params.json": b"{}"}, {"pytorch_model.bin"}),
        (SHARDED | {"pytorch_model.bin": b"b"}, set(SHARDED)),
    ],
    ids=["safetensors before bin", "bin before meta", "shards named by the index"],
)
def test_one_weight_format_and_nothing_else_is_pulled(server: HubServer, others: dict[str, bytes], weights: set[str]) -> None:
    noise = ["optimizer.pt", "model.gguf", "original/consolidated.00.pth", "onnx/model.onnx", "flax_model.msgpack", "README.md"]
    server.add("org/tiny", SMALL | others | dict.fromkeys(noise, b"x"))
    folder = hub.pull("org/tiny")
    assert {file.name for file in folder.iterdir()} == set(SMALL) | weights
    assert asked(server) == set(SMALL) | weights
    assert server.requests[0] == Seen("GET", "/api/models/org/tiny", None, None)


def test_meta_format_is_pulled_when_there_is_no_other(server: HubServer) -> None:
    for name in ("consolidated.00.pth", "consolidated.00-of-02.pth", "consolidated.pt"):  # All that loads from a folder.
        files = {"params.json": b"{}", "tokenizer.model": TOKENIZER} | dict.fromkeys(
            (name, name.replace("00", "01"), "x.pth"), b"x"
        )
        server.add("org/tiny", files)
        assert {file.name for file in hub.pull("org/tiny").iterdir()} == set(files) - {"x.pth"}


def test_a_gguf_file_is_pulled_alone_or_with_its_other_parts(server: HubServer, tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "x.gguf", layers=1).read_bytes()
    names = ["q4.gguf", "q8-00001-of-00002.gguf", "q8-00002-of-00002.gguf"]
    commit = server.add("org/tiny-GGUF", dict.fromkeys(names, content) | {"README.md": b"", "config.json": b"{}"})
    found = find(ModelSpec(model="org/tiny-GGUF:q4.gguf"))
    assert (found.path.read_bytes(), found.repo_id, found.revision) == (content, "org/tiny-GGUF", commit)
    assert asked(server) == {"q4.gguf"}
    assert find(ModelSpec(model="org/tiny-GGUF:q4.gguf", offline=True)).path == found.path
    split = find(ModelSpec(model="https://huggingface.co/org/tiny-GGUF/blob/main/q8-00001-of-00002.gguf"))
    assert {file.name for file in split.path.parent.iterdir()} == set(names)
    for name, told in (
        ("org/tiny-GGUF:q9.gguf", "use one of its GGUF files: q4.gguf, "),
        ("org/tiny-GGUF", "org/tiny-GGUF:q4.gguf"),
    ):
        with pytest.raises(HubError) as caught:
            find(ModelSpec(model=name))
        assert caught.value.code == "no_model_files"
        assert told in caught.value.remedy


def test_the_gguf_file_that_is_suggested_is_nearly_lossless_and_can_be_pulled(server: HubServer, tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "x.gguf", layers=1).read_bytes()
    server.add("org/many-GGUF", {f"x.{kind}.gguf": content for kind in ("F32", "Q2_K", "Q4_K_M", "Q6_K", "Q8_0")})
    with pytest.raises(HubError) as caught:
        find(ModelSpec(model="org/many-GGUF"))
    assert caught.value.remedy == "name one of them, such as org/many-GGUF:x.Q8_0.gguf"
    assert find(ModelSpec(model="org/many-GGUF:x.Q8_0.gguf")).path.name == "x.Q8_0.gguf"
    # One of them here changes nothing: which file is meant never depends on the cache.
    for offline in (False, True):
        with pytest.raises(HubError, match="files only"):
            find(ModelSpec(model="org/many-GGUF", offline=offline))
    with pytest.raises(HubError) as caught:
        find(ModelSpec(model="org/many-GGUF:x.Q6_K.gguf", offline=True))
    assert "`olc models pull org/many-GGUF:x.Q6_K.gguf`" in caught.value.remedy


def test_an_adapter_is_pulled_with_what_belongs_to_it(server: HubServer) -> None:
    files = {
        "adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "org/tiny"}',
        "adapter_model.safetensors": b"w",
        "tokenizer_config.json": b"{}",
    }
    commit = server.add("org/lora", files | {"optimizer.pt": b"x", "README.md": b""})
    found = find_adapter("org/lora:0.5", offline=False)
    assert (found.label, found.scale, found.revision) == ("org/lora:0.5", 0.5, commit)
    assert {file.name for file in found.path.iterdir()} == asked(server) == set(files)
    assert find_adapter("org/lora", offline=True).path == found.path
    assert hub.pull("org/lora") == hub.pull("org/lora", offline=True) == found.path


def test_an_adapter_on_the_hub_is_a_model_with_the_one_that_it_names(server: HubServer, tmp_path: Path) -> None:
    config = b'{"peft_type": "LORA", "base_model_name_or_path": "org/tiny"}'
    old = server.add("org/lora", {"adapter_config.json": config, "adapter_model.safetensors": b"old"})
    new = server.add("org/lora", {"adapter_config.json": config, "adapter_model.safetensors": b"w"})
    said: list[str] = []
    with pytest.raises(HubError) as caught:
        find(ModelSpec(model="org/lora"), notice=said.append)
    assert "org/tiny" in caught.value.cause
    assert "org/lora" not in caught.value.remedy
    base = server.add("org/tiny", WHOLE)
    for given, scale in ((), 1.0), (("org/lora:0.5",), 0.5):
        found = find(ModelSpec(model="org/lora", adapters=given), notice=said.append)
        assert (found.name, found.repo_id, found.revision) == ("org/tiny", "org/tiny", base)
        assert [(one.repo_id, one.scale, one.revision) for one in found.adapters] == [("org/lora", scale, new)]
    assert "olc: org/lora is an adapter for org/tiny" in said
    found = find(ModelSpec(model="org/lora", revision=old))
    assert (found.revision, found.adapters[0].revision) == (base, old)


def test_second_pull_downloads_nothing_and_follows_main(server: HubServer) -> None:
    first = server.add("org/tiny", WHOLE)
    hub.pull("org/tiny")
    downloads = [seen for seen in server.requests if seen.method == "GET" and "/resolve/" in seen.path]
    assert hub.pull("org/tiny").name == first
    assert [seen for seen in server.requests if seen.method == "GET" and "/resolve/" in seen.path] == downloads
    second = server.add("org/tiny", WHOLE | {"generation_config.json": b'{"x": 1}'})
    assert hub.pull("org/tiny").name == second
    assert len(server.downloads("model.safetensors")) == 1, "unchanged weights are shared by both revisions"
    assert cached("org/tiny", first) is not None


def test_branch_and_commit_can_be_pulled(server: HubServer) -> None:
    old = server.add("org/tiny", WHOLE)
    other = server.add("org/tiny", WHOLE | {"model.safetensors": b"other"}, branch="refs-pr-1")
    assert hub.pull("org/tiny", "refs-pr-1").name == other
    assert cached("org/tiny") is None, "a branch is not main"
    assert hub.pull("org/tiny", old).name == old
    before = len(server.requests)
    assert hub.pull("org/tiny", old).name == old
    assert len(server.requests) == before, "a commit that is here needs no network"


def test_token_goes_to_the_hub_and_not_to_its_file_server(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.readers = {"hf_reader"}
    server.add("org/tiny", WHOLE, gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    hub.pull("org/tiny")
    (large,) = server.downloads("model.safetensors")
    assert large.path.startswith("/files/")
    assert large.authorization is None
    assert all(seen.authorization == "Bearer hf_reader" for seen in server.requests if "/resolve/" in seen.path)


def test_large_tokenizer_json_is_pulled(server: HubServer, tmp_path: Path) -> None:
    files = {name: content for name, content in WHOLE.items() if name != "tokenizer.model"}
    tokenizer = (save(tmp_path / "made") / "tokenizer.json").read_bytes()
    server.add("org/tiny", files | {"tokenizer.json": tokenizer + b" " * 17 * 2**20})
    assert (hub.pull("org/tiny") / "tokenizer.json").stat().st_size > 16 * 2**20
