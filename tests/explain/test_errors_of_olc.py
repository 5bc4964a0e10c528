"""Errors of olc itself, recognized by their form: two lines, which are given back, or the code in JSON, which is looked up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.errors import OlcError
from openllama_cli.explain.catalogue import find, with_olc_code
from openllama_cli.explain.diagnosis import Diagnosis
from openllama_cli.explain.search import explain
from openllama_cli.models.hub import pull as hub
from openllama_cli.models.spec import ModelSpec
from tests.support.hub.fixtures import cache, server
from tests.support.hub.server import HubServer
from tests.support.models.tiny_models import change_config, write_tiny_llama
from tests.support.raising import codes, raised

__all__ = ["cache", "server"]


def failing(function: Callable[[], Any]) -> OlcError:
    """The error that a function raises."""
    with pytest.raises(OlcError) as caught:
        function()
    return caught.value


def printed(error: OlcError) -> str:
    """The two lines that `olc` prints."""
    return f"error: {error.cause}\n  fix: {error.remedy}\n"


def own(diagnosis: Diagnosis) -> tuple[str, str] | None:
    """Cause and fix of the olc error, if that is what explains it."""
    found = [one.error for one in diagnosis.explanations if one.error.code == "olc"]
    return (found[0].cause, found[0].fix) if found else None


def recognized(error: OlcError, code: str) -> None:
    """An error of olc: its two lines come back as they are, and its code leads to the entry of the catalogue."""
    diagnosis = explain(["some output\n", printed(error)])
    assert own(diagnosis) == (error.cause, error.remedy)
    assert ([one.line_number for one in diagnosis.explanations], diagnosis.unknown) == ([2], None)
    row = {"custom_id": "1", "error": {"code": error.code, "message": error.cause}}
    for separators in (None, (",", ":")):
        assert code in codes(json.dumps(row, separators=separators))


def test_the_hub_refuses(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("org/gated", {"config.json": b"{}", "tokenizer.model": b"x", "model.safetensors": b"x"}, gated=True)
    server.add("org/bare", {"README.md": b"x"})
    recognized(failing(lambda: hub.pull("org/absent")), "hub_repo_missing")
    recognized(failing(lambda: hub.pull("org/gated")), "hub_gated")
    recognized(failing(lambda: hub.pull("org/bare")), "not_hugging_face_format")
    recognized(failing(lambda: hub.pull("org/gated", "v9")), "hub_revision_missing")
    recognized(failing(lambda: hub.pull("org/absent", offline=True)), "hub_offline")
    server.tokens.add("hf_valid")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    recognized(failing(lambda: hub.pull("org/absent")), "hub_refused")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    recognized(failing(lambda: hub.pull("org/any")), "hub_unreachable")


@pytest.mark.parametrize(("status", "code"), [(429, "hub_rate_limit"), (403, "hub_refused"), (502, "hub_unreachable")])
def test_answers_of_the_hub(status: int, code: str) -> None:
    from openllama_cli.models.hub.errors import _refused

    recognized(_refused(status, "org/x", "huggingface.co"), code)


def test_tokens_logits_and_devices(tmp_path: Path) -> None:
    import torch

    from openllama_cli.generation.decode.sampling import require_finite
    from openllama_cli.models.tokenizer.open import open_tokenizer
    from openllama_cli.system.device import main_device

    tokenizer = open_tokenizer(write_tiny_llama(tmp_path / "model"))
    recognized(failing(lambda: tokenizer.decode([10**6])), "index_out_of_range")
    recognized(failing(lambda: require_finite(torch.tensor([float("nan")]))), "nan_probabilities")
    if torch.version.cuda is None and torch.version.hip is None:
        recognized(failing(lambda: main_device("cuda")), "torch_without_cuda")


def test_errors_while_a_checkpoint_is_read(tmp_path: Path) -> None:
    import torch

    from openllama_cli.models.checkpoint import read_errors
    from openllama_cli.models.checkpoint.inspect import inspect

    checkpoint = inspect(write_tiny_llama(tmp_path / "model"))
    for problem, device, code in (
        (torch.OutOfMemoryError("CUDA out of memory"), "cuda:0", "cuda_out_of_memory"),
        (MemoryError(), "cpu", "cpu_out_of_memory"),
    ):
        error = read_errors._explain(problem, checkpoint, torch.device(device), torch.float32)
        assert error is not None
        recognized(error, code)
    full = OSError(28, "Auf dem Gerät ist kein Speicherplatz mehr verfügbar")

    def fill() -> None:
        with read_errors.explained(checkpoint, torch.device("cpu"), torch.float32):
            raise full

    recognized(failing(fill), "disk_full")
    folder = change_config(checkpoint.path, auto_map={"AutoModelForCausalLM": "m.M"})
    recognized(failing(lambda: inspect(folder)), "remote_code")


# -- their form -----------------------------------------------------------------------------------------------------


def test_a_code_may_mean_several_entries() -> None:
    assert find("context_length_exceeded") is find("context_too_long")
    assert {entry.code for entry in with_olc_code("device")} == {"torch_without_cuda", "no_gpu", "mps_unsupported"}
    assert with_olc_code("no_such_code") == ()


@pytest.mark.parametrize(
    "text",
    [
        "error: an odd\nthing happened\n  fix: do\n",
        "\x1b[1;31merror:\x1b[0m an odd thing happened\n\x1b[1m  fix: \x1b[0mdo\n",
        "[rank0]: error: an odd thing happened\n[rank0]:   fix: do\n",
        "> error: an odd thing happened\r\n>   fix: do\r\n",
    ],
    ids=["wrapped", "in color", "of a rank", "quoted"],
)
def test_lines_of_terminals_and_logs(text: str) -> None:
    assert own(explain([text])) == ("an odd thing happened", "do")


def test_a_traceback_of_debug_mode() -> None:
    error = failing(lambda: ModelSpec(device="toaster"))
    assert own(explain([raised(lambda: ModelSpec(device="toaster"))])) == (error.cause, error.remedy)


def test_what_is_of_others_is_not_olc() -> None:
    assert codes("error: cannot write x: [Errno 28] No space left on device\n  fix: do\n") == ["disk_full"]
    for text in ("  fix: something\n", "error: x\n" + "more\n" * 50 + "  fix: something\n", "error: x\n\n  fix: something\n"):
        assert own(explain([text])) is None
