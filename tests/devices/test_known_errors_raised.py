"""Errors that torch, transformers and their friends really raise here, each explained by its own entry."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.devices.error_search import explain
from tests.hub_server import HubServer

torch = pytest.importorskip("torch")


def raised(function: Callable[[], Any]) -> str:
    """The traceback of what a function raises, as Python prints it."""
    try:
        function()
    except BaseException:
        return traceback.format_exc()
    raise AssertionError("nothing was raised")


def codes(text: str) -> list[str]:
    return [one.error.code for one in explain([text]).explanations]


def first(function: Callable[[], Any]) -> str:
    """The code that explains what a function raises."""
    text = raised(function)
    found = codes(text)
    assert found, text
    return found[0]


# -- torch ----------------------------------------------------------------------------------------------------------


def test_tensors_on_two_devices() -> None:
    cpu, meta = torch.ones(2, 2), torch.ones(2, 2, device="meta")
    assert first(lambda: cpu + meta) == "mixed_devices"
    attention = torch.nn.functional.scaled_dot_product_attention
    assert first(lambda: attention(cpu[None, None], meta[None, None], cpu[None, None])) == "mixed_devices"


def test_two_devices_with_a_gpu_that_is_not_there() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        weight, ids = torch.empty(4, 2, device="cuda"), torch.ones(1, dtype=torch.long)
        text = raised(lambda: torch.nn.functional.embedding(ids, weight))
    assert "cuda:0 and cpu" in text
    assert codes(text)[0] == "mixed_devices"


def test_meta_tensors() -> None:
    assert first(lambda: torch.ones(2, device="meta").to("cpu")) == "meta_tensor"
    assert first(lambda: torch.nn.Linear(2, 2, device="meta").to("cpu")) == "meta_tensor"
    assert first(lambda: torch.ones((), device="meta").item()) == "meta_tensor"


@pytest.mark.skipif(torch.version.cuda is not None or torch.version.hip is not None, reason="this torch is built for GPUs")
def test_cuda_on_a_cpu_build() -> None:
    assert first(lambda: torch.ones(1).cuda()) == "torch_without_cuda"
    assert first(lambda: torch.cuda.set_device(0)) == "torch_without_cuda"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac with a GPU")
def test_mps_without_an_apple_gpu() -> None:
    assert first(lambda: torch.ones(1, device="mps")) == "mps_unsupported"


def test_a_checkpoint_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    assert first(lambda: torch.load(tmp_path / "a.pt", map_location="cuda")) == "cuda_checkpoint_on_cpu"


def test_nan_in_the_probabilities() -> None:
    assert first(lambda: torch.multinomial(torch.tensor([float("nan"), 1.0]), 1)) == "nan_probabilities"


def test_a_token_id_beyond_the_embeddings() -> None:
    assert first(lambda: torch.nn.Embedding(4, 2)(torch.tensor([4]))) == "index_out_of_range"


def test_two_number_types() -> None:
    assert first(lambda: torch.nn.Linear(2, 2)(torch.ones(1, 2, dtype=torch.bfloat16))) == "mixed_dtypes"
    assert first(lambda: torch.ones(2, 2).half() @ torch.ones(2, 2)) == "mixed_dtypes"


def test_more_memory_than_there_is() -> None:
    assert first(lambda: torch.empty(10**15)) == "cpu_out_of_memory"
    assert first(lambda: bytearray(1 << 62)) == "cpu_out_of_memory"


@pytest.fixture
def no_process_group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("no_process_group")
class TestDistributed:
    def test_no_rank(self) -> None:
        assert first(lambda: torch.distributed.init_process_group("gloo")) == "rank_not_set"

    @pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="this torch has NCCL")
    def test_no_nccl(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = f"tcp://127.0.0.1:{port}"
        start = lambda: torch.distributed.init_process_group("nccl", init_method=address, rank=0, world_size=1)  # noqa: E731
        assert first(start) == "nccl_missing"

    def test_port_in_use(self) -> None:
        with socket.socket() as taken:
            taken.bind(("0.0.0.0", 0))
            taken.listen()
            assert first(lambda: torch.distributed.TCPStore("127.0.0.1", taken.getsockname()[1], 1, True)) == "port_in_use"

    def test_nobody_at_the_address(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            store = lambda: torch.distributed.TCPStore("127.0.0.1", port, 2, False, timeout=timedelta(seconds=1))  # noqa: E731
            assert first(store) == "rendezvous_timeout"


@pytest.mark.slow
def test_the_published_llama_start_under_torchrun(tmp_path: Path) -> None:
    """The first lines of the published example, run as its README says, on a torch without NCCL."""
    if torch.distributed.is_nccl_available():
        pytest.skip("this torch has NCCL")
    script = tmp_path / "example.py"
    script.write_text("import torch\ntorch.distributed.init_process_group('nccl')\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert codes(run.stderr) == ["nccl_missing", "torchrun_child_failed"]


@pytest.mark.slow
def test_a_process_that_is_killed_under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert codes(run.stderr) == ["killed", "torchrun_child_failed"]


# -- files ----------------------------------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"


@pytest.mark.parametrize("content", [PAGE, POINTER], ids=["page", "pointer"])
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_page_or_pointer_opened_by_torch(tmp_path: Path, content: bytes, weights_only: bool) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    assert first(lambda: torch.load(tmp_path / "x.bin", weights_only=weights_only)) == "not_weights"


def test_a_checkpoint_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    torch.save({"a": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    assert first(lambda: torch.load(file)) == "checkpoint_cut_short"
    file.write_bytes(b"")
    assert first(lambda: pickle.loads(b"")) == "checkpoint_cut_short"


def test_a_checkpoint_with_more_than_weights(tmp_path: Path) -> None:
    torch.save({"a": os.path.join}, tmp_path / "x.bin")
    assert first(lambda: torch.load(tmp_path / "x.bin")) == "torch_load_weights_only"


def damaged_headers() -> dict[str, bytes]:
    from safetensors.torch import save

    whole: bytes = save({"a": torch.ones(100)})
    return {
        "cut in the weights": whole[:200],
        "cut in the header": whole[:30],
        "cut in the length": whole[:4],
        "too long": whole + b"xx",
        "empty": b"",
        "a web page": PAGE,
        "a pointer": POINTER,
        "not JSON": (9).to_bytes(8, "little") + b'{"a":1,,}',
    }


@pytest.mark.parametrize("what", damaged_headers())
def test_a_damaged_safetensors_file(tmp_path: Path, what: str) -> None:
    from safetensors.torch import load_file

    (tmp_path / "x.safetensors").write_bytes(damaged_headers()[what])
    assert first(lambda: load_file(tmp_path / "x.safetensors")) == "safetensors_damaged"


def test_weights_of_another_shape() -> None:
    assert first(lambda: torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())) == "size_mismatch"


def test_a_tokenizer_model_that_is_none(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    (tmp_path / "tokenizer.model").write_bytes(PAGE)
    assert first(lambda: SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))) == "tokenizer_damaged"
    assert first(lambda: SentencePieceProcessor().Load(None)) == "tokenizer_damaged"
    assert first(lambda: SentencePieceProcessor(model_file=str(tmp_path / "absent.model"))) == "tokenizer_damaged"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk() -> None:
    with pytest.raises(OSError, match="28"), Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)
    assert first(lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"x")) == "disk_full"


def test_a_library_that_is_not_there() -> None:
    import ctypes

    assert first(lambda: ctypes.CDLL("libcudart.so.99")) == "cuda_library_missing"


# -- transformers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_model)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"load_in_8bit": True}, "quantisation_argument"),
        ({"load_in_4bit": True}, "quantisation_argument"),
        ({"use_auth_token": "x"}, "use_auth_token_removed"),
        ({"device": "cpu"}, "unknown_argument"),
        ({"attn_implementation": "flash_attention_2"}, "flash_attention_missing"),
    ],
)
def test_arguments_that_from_pretrained_does_not_take(tiny_model: Path, arguments: dict[str, Any], code: str) -> None:
    from transformers import LlamaForCausalLM

    assert codes(raised(lambda: LlamaForCausalLM.from_pretrained(tiny_model, **arguments))) == [code]


def test_quantisation_without_bitsandbytes(tiny_model: Path) -> None:
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    config = BitsAndBytesConfig(load_in_8bit=True)
    assert first(lambda: LlamaForCausalLM.from_pretrained(tiny_model, quantization_config=config)) == "bitsandbytes_missing"


def test_arguments_of_generate(model: Any) -> None:
    ids = torch.tensor([[1, 5]])
    assert first(lambda: model.generate(ids, token_type_ids=torch.zeros_like(ids))) == "token_type_ids"
    assert first(lambda: model.generate(ids, temperature=0.0, do_sample=True, max_new_tokens=1)) == "zero_temperature"
    assert first(lambda: model.generate(ids.repeat(1, 20), max_length=10)) == "context_too_long"


def test_padding_without_a_padding_token(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    assert first(lambda: tokenizer(["a", "b c"], padding=True)) == "pad_token_missing"


def test_too_many_tokens(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model, model_max_length=4)
    with logged(caplog):
        tokenizer("one two three four five six seven")
    assert codes(caplog.text) == ["context_too_long"]


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What transformers logs, which it does not pass on to the root logger."""
    import logging

    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        yield
    finally:
        logger.removeHandler(caplog.handler)


def changed(model_folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model folder with other values in its config.json; None removes the file."""
    shutil.copytree(model_folder, target)
    config = target / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return target


def test_weights_that_are_missing_or_of_another_shape(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import LlamaForCausalLM

    layers = json.loads((tiny_model / "config.json").read_text())["num_hidden_layers"]
    with logged(caplog):
        LlamaForCausalLM.from_pretrained(changed(tiny_model, tmp_path / "more", num_hidden_layers=layers + 1))
    assert codes(caplog.text) == ["weights_missing"]
    wider = changed(tiny_model, tmp_path / "wider", vocab_size=1000)
    assert first(lambda: LlamaForCausalLM.from_pretrained(wider)) == "size_mismatch"


def test_folders_that_are_no_model(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained
    unknown = changed(tiny_model, tmp_path / "unknown", model_type="llama9")
    assert first(lambda: load(unknown)) == "transformers_too_old"
    own_code = changed(
        tiny_model, tmp_path / "code", model_type="x", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}
    )
    assert first(lambda: load(own_code, trust_remote_code=False)) == "remote_code"
    bare = changed(tiny_model, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    assert first(lambda: load(bare)) == "not_hugging_face_format"
    (bare / "config.json").unlink()
    assert first(lambda: load(bare)) == "config_missing"
    assert first(lambda: load("./no/such/folder")) == "hub_bad_repo_id"


def test_a_model_with_offloaded_layers_is_moved(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    device_map = {"model": "cpu", "lm_head": "disk"}
    model = LlamaForCausalLM.from_pretrained(tiny_model, device_map=device_map, offload_folder=tmp_path)
    assert codes(raised(lambda: model.to("cpu"))) == ["offloaded_model_moved"]


def test_disk_offload_without_a_folder(model: Any) -> None:
    from accelerate import dispatch_model

    device_map = {"model": "cpu", "lm_head": "disk"}
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


def from_hub(repo: str, cache: Path, **options: Any) -> Callable[[], Any]:
    from transformers import AutoConfig

    return lambda: AutoConfig.from_pretrained(repo, cache_dir=cache, **options)


def test_repositories_that_cannot_be_had(hub: HubServer, tmp_path: Path) -> None:
    hub.add("org/gated", {"config.json": b"{}"}, gated=True)
    hub.add("org/private", {"config.json": b"{}"}, private=True)
    hub.add("org/there", {"README.md": b"x"})
    assert codes(raised(from_hub("org/absent", tmp_path))) == ["hub_repo_missing"]
    assert codes(raised(from_hub("org/private", tmp_path))) == ["hub_repo_missing"]
    assert codes(raised(from_hub("org/gated", tmp_path))) == ["hub_gated"]
    assert codes(raised(from_hub("org/there", tmp_path, revision="v9"))) == ["hub_revision_missing"]
    hub.tokens.add("hf_valid")
    assert codes(raised(from_hub("org/there", tmp_path, token="hf_expired"))) == ["hub_refused"]


def test_too_many_requests(hub: HubServer, tmp_path: Path) -> None:
    from huggingface_hub.utils import get_session, hf_raise_for_status

    hub.add("org/busy", {"config.json": b"{}"})
    hub.status["config.json"] = [429]
    text = raised(lambda: hf_raise_for_status(get_session().get(f"{hub.url}/org/busy/resolve/main/config.json")))
    assert codes(text) == ["hub_rate_limit"]


def test_offline(hub: HubServer, tmp_path: Path) -> None:
    assert codes(raised(from_hub("org/absent", tmp_path, local_files_only=True))) == ["hub_offline"]


@pytest.mark.slow
def test_no_connection(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}")
    assert codes(raised(from_hub("org/any", tmp_path))) == ["hub_unreachable"]
