"""Errors that torch and the readers of files really raise here, each explained by its own entry."""

import ctypes
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked_torchrun import launch
from tests.support.raising import codes, first, raised

torch = pytest.importorskip("torch")


# -- torch ----------------------------------------------------------------------------------------------------------


def ones(*shape: int, **options: Any) -> Any:
    return torch.ones(*shape, **options)


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


def test_a_checkpoint_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    assert first(lambda: torch.load(tmp_path / "a.pt", map_location="cuda")) == "cuda_checkpoint_on_cpu"


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
@pytest.mark.parametrize(
    ("script", "code"),
    [
        # The first lines of the published example.
        pytest.param(
            "import torch\ntorch.distributed.init_process_group('nccl')\n",
            "nccl_missing",
            marks=pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="this torch has NCCL"),
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "killed"),
    ],
)
def test_scripts_that_fail_under_torchrun(tmp_path: Path, script: str, code: str) -> None:
    (tmp_path / "example.py").write_text(script)
    run = launch("--standalone", "--nproc_per_node", "1", str(tmp_path / "example.py"))
    assert run.wait() == 1
    assert codes(run.err.decode()) == [code, "torchrun_child_failed"]


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
