"""Errors that torch and the readers of files really raise here, each explained by its own entry."""

import ctypes
import json
import os
import pickle
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked_torchrun import launch
from tests.support.raising import codes, first, raised

torch = pytest.importorskip("torch")
numpy: Any = pytest.importorskip("numpy")


# -- torch ----------------------------------------------------------------------------------------------------------


def ones(*shape: int, **options: Any) -> Any:
    return torch.ones(*shape, **options)


def twice(function: Callable[[], Any]) -> None:
    function()
    function()


def attend(query: Any, key: Any) -> Any:
    return torch.nn.functional.scaled_dot_product_attention(query, key, query)


WITH_GPU = pytest.mark.skipif(torch.version.cuda is not None or torch.version.hip is not None, reason="torch is built for GPUs")
WITH_MPS = pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac with a GPU")


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (lambda: ones(2, 2) + ones(2, 2, device="meta"), "mixed_devices"),
        (lambda: attend(ones(1, 1, 2, 2), ones(1, 1, 2, 2, device="meta")), "mixed_devices"),
        (lambda: ones(2, device="meta").to("cpu"), "meta_tensor"),
        (lambda: torch.nn.Linear(2, 2, device="meta").to("cpu"), "meta_tensor"),
        (lambda: torch.ones((), device="meta").item(), "meta_tensor"),
        pytest.param(lambda: ones(1).cuda(), "torch_without_cuda", marks=WITH_GPU),
        pytest.param(lambda: torch.cuda.set_device(0), "torch_without_cuda", marks=WITH_GPU),
        pytest.param(lambda: ones(1, device="mps"), "mps_unsupported", marks=WITH_MPS),
        (lambda: torch.multinomial(torch.tensor([float("nan"), 1.0]), 1), "nan_probabilities"),
        (lambda: torch.nn.Embedding(4, 2)(torch.tensor([4])), "index_out_of_range"),
        (lambda: torch.nn.Linear(2, 2)(ones(1, 2, dtype=torch.bfloat16)), "mixed_dtypes"),
        (lambda: ones(2, 2).half() @ ones(2, 2), "mixed_dtypes"),
        (lambda: torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict()), "size_mismatch"),
        (lambda: torch.empty(10**15), "cpu_out_of_memory"),
        (lambda: bytearray(1 << 62), "cpu_out_of_memory"),
        (lambda: pickle.loads(b""), "checkpoint_cut_short"),
        (lambda: torch.nn.Embedding(4, 2)(ones(1)), "float_token_ids"),
        (lambda: ones(2, 3) @ ones(2, 3), "matrix_shapes"),
        (lambda: torch.nn.functional.linear(ones(3, 4), ones(5, 4)[:, :2]), "matrix_shapes"),
        (lambda: ones(2, 3).expand(5, 5), "mask_length"),
        (lambda: ones(1, requires_grad=True).numpy(), "tensor_to_numpy"),
        (lambda: ones(1, dtype=torch.bfloat16).numpy(), "tensor_to_numpy"),
        (lambda: ones(1, requires_grad=True).add_(1), "changed_in_place"),
        (lambda: twice((ones(1, requires_grad=True) ** 2).sum().backward), "backward_twice"),
        (lambda: ones(1).backward(), "nothing_to_train"),
        (lambda: numpy.dot(numpy.ones((30, 784)), numpy.ones((10, 1))), "array_shapes"),
        (lambda: numpy.ones((30, 784)) @ numpy.ones((10, 1)), "array_shapes"),
        (lambda: numpy.array([numpy.ones(2), numpy.ones(3)]), "ragged_array"),
        (lambda: numpy.float, "numpy_alias_removed"),
        (lambda: numpy.float_, "numpy_2_name_removed"),
        (lambda: eval("xrange"), "python_2_code"),
        (lambda: "é".encode("ascii"), "console_encoding"),
        (lambda: b"\x80".decode(), "not_utf8"),
        (lambda: json.loads("<html>"), "json_empty"),
        (lambda: Path("no/such/file").read_text(), "file_missing"),
        (lambda: ctypes.CDLL("libcudart.so.99"), "cuda_library_missing"),
    ],
)
def test_what_torch_and_python_raise(function: Callable[[], Any], code: str) -> None:
    assert first(function) == code


def test_two_devices_with_a_gpu_that_is_not_there() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        weight, ids = torch.empty(4, 2, device="cuda"), torch.ones(1, dtype=torch.long)
        text = raised(lambda: torch.nn.functional.embedding(ids, weight))
    assert "cuda:0 and cpu" in text
    assert codes(text)[0] == "mixed_devices"


@pytest.mark.filterwarnings("ignore")
def test_processes_that_do_not_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    start, store = torch.distributed.init_process_group, torch.distributed.TCPStore
    assert first(lambda: start("gloo")) == "rank_not_set"
    with socket.socket() as one:
        one.bind(("0.0.0.0", 0))
        port = one.getsockname()[1]
        second = timedelta(seconds=1)
        assert first(lambda: store("127.0.0.1", port, 2, False, timeout=second)) == "rendezvous_timeout"
        one.listen()
        assert first(lambda: store("127.0.0.1", port, 1, True)) == "port_in_use"
    address = f"tcp://127.0.0.1:{port}"
    if not torch.distributed.is_nccl_available():
        assert first(lambda: start("nccl", init_method=address, rank=0, world_size=1)) == "nccl_missing"


@pytest.mark.slow
def test_a_script_that_is_killed_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    run = launch("--standalone", "--nproc_per_node", "1", str(tmp_path / "example.py"))
    assert run.wait() == 1
    assert codes(run.err.decode()) == ["killed", "torchrun_child_failed"]


# -- files ----------------------------------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 12345\n"


def test_files_that_torch_does_not_load(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    for content in (PAGE, POINTER):
        file.write_bytes(content)
        assert first(lambda: torch.load(file)) == "not_weights"
        assert first(lambda: torch.load(file, weights_only=False)) == "not_weights"
    torch.save({"a": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    assert first(lambda: torch.load(file)) == "checkpoint_cut_short"
    torch.save({"a": os.path.join}, file)
    assert first(lambda: torch.load(file)) == "torch_load_weights_only"
    torch.save({"a": torch.ones(1)}, file)
    if not torch.cuda.is_available():
        assert first(lambda: torch.load(file, map_location="cuda")) == "cuda_checkpoint_on_cpu"


def test_a_damaged_safetensors_file(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save

    whole: bytes = save({"a": torch.ones(100)})
    # Cut in the weights, the header and the length; too long; empty; not safetensors; no JSON.
    not_json = (9).to_bytes(8, "little") + b'{"a":1,,}'
    for content in (whole[:200], whole[:30], whole[:4], whole + b"xx", b"", PAGE, POINTER, not_json):
        (tmp_path / "x.safetensors").write_bytes(content)
        assert first(lambda: load_file(tmp_path / "x.safetensors")) == "safetensors_damaged", content


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
