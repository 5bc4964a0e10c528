"""Errors that transformers and the Hub's library really raise here, each explained by its own entry."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import TestCase

import pytest

from tests.support.hub.server import HubServer
from tests.support.models.tiny_models import change_config
from tests.support.raising import codes, first, raised

torch = pytest.importorskip("torch")


# -- transformers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_model)


def test_arguments_that_from_pretrained_does_not_take(tiny_model: Path) -> None:
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    def found(**arguments: Any) -> list[str]:
        return codes(raised(lambda: LlamaForCausalLM.from_pretrained(tiny_model, **arguments)))

    assert found(load_in_8bit=True) == found(load_in_4bit=True) == ["quantisation_argument"]
    assert found(use_auth_token="x") == ["use_auth_token_removed"]
    assert found(device="cpu") == ["unknown_argument"]
    assert found(attn_implementation="flash_attention_2") == ["flash_attention_missing"]
    assert found(quantization_config=BitsAndBytesConfig(load_in_8bit=True))[0] == "bitsandbytes_missing"


def test_arguments_of_generate(model: Any) -> None:
    ids = torch.tensor([[1, 5]])
    assert first(lambda: model.generate(ids, token_type_ids=torch.zeros_like(ids))) == "token_type_ids"
    assert first(lambda: model.generate(ids, temperature=0.0, do_sample=True, max_new_tokens=1)) == "zero_temperature"
    assert first(lambda: model.generate(ids.repeat(1, 20), max_length=10)) == "max_length_of_prompt"
    assert first(lambda: model.generate(ids, do_sample=False, num_return_sequences=3)) == "several_greedy_texts"
    assert first(lambda: model.model.generate(ids)) == "no_language_model_head"


def test_padding_without_a_padding_token_and_too_many_tokens(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model, model_max_length=4)
    with TestCase().assertLogs("transformers") as logs:
        tokenizer("one two three four five six seven")
    assert codes("\n".join(logs.output)) == ["context_too_long"]
    tokenizer.pad_token = None
    assert first(lambda: tokenizer(["a", "b c"], padding=True)) == "pad_token_missing"


def test_weights_that_are_missing_or_of_another_shape(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    change_config(copy, num_hidden_layers=5)
    with TestCase().assertLogs("transformers") as logs:
        LlamaForCausalLM.from_pretrained(copy)
    assert codes("\n".join(logs.output)) == ["weights_missing"]
    change_config(copy, vocab_size=1000)
    assert first(lambda: LlamaForCausalLM.from_pretrained(copy)) == "size_mismatch"


def test_folders_that_are_no_model(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    assert first(lambda: load(copy)) == "not_hugging_face_format"
    change_config(copy, model_type="llama9")
    assert first(lambda: load(copy)) == "transformers_too_old"
    change_config(copy, auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"})
    assert first(lambda: load(copy, trust_remote_code=False)) == "remote_code"
    (copy / "config.json").unlink()
    assert first(lambda: load(copy)) == "config_missing"
    assert first(lambda: load("./no/such/folder")) == "hub_bad_repo_id"


def test_layers_that_are_offloaded_to_disk(model: Any, tiny_model: Path, tmp_path: Path) -> None:
    from accelerate import dispatch_model
    from transformers import LlamaForCausalLM

    device_map = {"model": "cpu", "lm_head": "disk"}
    offloaded = LlamaForCausalLM.from_pretrained(tiny_model, device_map=device_map, offload_folder=tmp_path)
    assert codes(raised(lambda: offloaded.to("cpu"))) == ["offloaded_model_moved"]
    assert first(lambda: dispatch_model(model, device_map=device_map, main_device="cpu")) == "offload_folder_needed"


# -- the Hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub on loopback that huggingface_hub asks, and an empty cache."""
    from huggingface_hub import constants

    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def from_hub(repo: str, cache: Path, **options: Any) -> list[str]:
    """The codes that explain why a repository cannot be had."""
    from transformers import AutoConfig

    return codes(raised(lambda: AutoConfig.from_pretrained(repo, cache_dir=cache, **options)))


def test_repositories_that_cannot_be_had(hub: HubServer, tmp_path: Path) -> None:
    hub.add("org/gated", {"config.json": b"{}"}, gated=True)
    hub.add("org/private", {"config.json": b"{}"}, private=True)
    hub.add("org/there", {"README.md": b"x"})
    assert from_hub("org/absent", tmp_path) == ["hub_repo_missing"]
    assert from_hub("org/absent", tmp_path, local_files_only=True) == ["hub_offline"]
    assert from_hub("org/private", tmp_path) == ["hub_repo_missing"]
    assert from_hub("org/gated", tmp_path) == ["hub_gated"]
    assert from_hub("org/there", tmp_path, revision="v9") == ["hub_revision_missing"]
    hub.tokens.add("hf_valid")
    assert from_hub("org/there", tmp_path, token="hf_expired") == ["hub_refused"]


def test_too_many_requests(hub: HubServer, tmp_path: Path) -> None:
    from huggingface_hub.utils import get_session, hf_raise_for_status

    hub.add("org/busy", {"config.json": b"{}"})
    hub.status["config.json"] = [429]
    text = raised(lambda: hf_raise_for_status(get_session().get(f"{hub.url}/org/busy/resolve/main/config.json")))
    assert codes(text) == ["hub_rate_limit"]


@pytest.mark.slow
def test_no_connection(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")
    assert from_hub("org/any", tmp_path) == ["hub_unreachable"]
