"""Errors of olc itself: they are in the same catalogue, and both say the same about the same failure."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.errors import OlcError
from openllama_cli.explain.catalogue import KnownError
from openllama_cli.explain.search import Diagnosis, explain
from openllama_cli.models.hub import pull as hub
from openllama_cli.models.spec import ModelSpec
from tests.support.hub_server import HubServer
from tests.support.tiny_models import write_tiny_llama


def failing(function: Callable[[], Any]) -> OlcError:
    """The error that a function raises."""
    with pytest.raises(OlcError) as caught:
        function()
    return caught.value


def printed(error: OlcError) -> str:
    """The two lines that `olc` prints."""
    return f"error: {error.cause}\n  fix: {error.remedy}\n"


def agrees(error: OlcError, code: str, *shared: str) -> KnownError:
    """The entry for an error of olc: found by its lines and by its code, and both name the same things to do."""
    diagnosis = explain([printed(error)])
    assert [one.error.code for one in diagnosis.explanations] == [code], printed(error)
    assert (diagnosis.own, diagnosis.unknown) == (None, None)
    entry = diagnosis.explanations[0].error
    if error.code not in ("model", "hub", "generation", "usage", "error"):
        assert error.code in entry.olc_codes
        row = json.dumps({"error": {"code": error.code, "message": error.cause}})
        assert code in [one.error.code for one in explain([row]).explanations]
    for words in shared:
        assert words in error.remedy
        assert words in f"{entry.fix} {entry.olc}"
    return entry


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with HubServer() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_the_hub_refuses(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("org/gated", {"config.json": b"{}", "tokenizer.model": b"x", "model.safetensors": b"x"}, gated=True)
    server.add("org/bare", {"README.md": b"x"})
    agrees(failing(lambda: hub.pull("org/absent")), "hub_repo_missing", "set HF_TOKEN or run", "spelling")
    agrees(failing(lambda: hub.pull("org/gated")), "hub_gated", "accept", "terms", "set HF_TOKEN or run", "hf auth login")
    agrees(failing(lambda: hub.pull("org/bare")), "not_hugging_face_format")
    agrees(failing(lambda: hub.pull("org/gated", "v9")), "hub_revision_missing", "main")
    agrees(failing(lambda: hub.pull("org/absent", offline=True)), "hub_offline", "olc models pull")
    server.tokens.add("hf_valid")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    agrees(failing(lambda: hub.pull("org/absent")), "hub_refused", "HF_TOKEN to a valid token", "unset it", "public model")


def test_no_hub(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = failing(lambda: hub.pull("org/any"))
    entry = agrees(error, "hub_unreachable", "network", "HF_ENDPOINT")
    assert "proxy" in error.remedy
    assert "PROXY" in entry.fix


def test_answers_of_the_hub() -> None:
    from openllama_cli.models.hub.errors import _refused

    agrees(_refused(429, "org/x", "huggingface.co"), "hub_rate_limit", "few minutes", "HF_TOKEN")
    agrees(_refused(403, "org/x", "huggingface.co"), "hub_refused")
    agrees(_refused(502, "org/x", "huggingface.co"), "hub_unreachable", "again")


def test_files_of_weights(tmp_path: Path) -> None:
    from openllama_cli.models.checkpoint.inspect import inspect

    folder = write_tiny_llama(tmp_path / "model")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content, code in (
        (whole[:-100], "safetensors_damaged"),
        (whole[:20], "safetensors_damaged"),
        (whole + b"x", "safetensors_damaged"),
        (b"", "safetensors_damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not_weights"),
        (b"<!DOCTYPE html><html>", "not_weights"),
    ):
        weights.write_bytes(content)
        agrees(failing(lambda: inspect(folder)), code)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    agrees(failing(lambda: inspect(folder)), "not_weights", "git lfs pull", "olc models pull")
    weights.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    for changes, code in (
        ({"num_hidden_layers": config["num_hidden_layers"] + 1}, "weights_missing"),
        ({"intermediate_size": 1000}, "size_mismatch"),
        ({"auto_map": {"AutoModelForCausalLM": "m.M"}}, "remote_code"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        agrees(failing(lambda: inspect(folder)), code)
    (folder / "config.json").unlink()
    agrees(failing(lambda: inspect(folder)), "config_missing", "config.json")
    (folder / "config.json").write_text(json.dumps(config))
    weights.unlink()
    agrees(failing(lambda: inspect(folder)), "not_hugging_face_format")


def test_tokenizers(tmp_path: Path) -> None:
    from openllama_cli.models.tokenizer.open import open_tokenizer

    folder = write_tiny_llama(tmp_path / "model")
    tokenizer = open_tokenizer(folder)
    agrees(failing(lambda: tokenizer.decode([10**6])), "index_out_of_range", "tokenizer")
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink(missing_ok=True)
    agrees(failing(lambda: open_tokenizer(folder)), "tokenizer_damaged")
    (folder / "tokenizer.model").write_bytes(b"<!DOCTYPE html>")
    agrees(failing(lambda: open_tokenizer(folder)), "tokenizer_damaged", "again")


def test_loading_and_generating(tmp_path: Path) -> None:
    import torch

    from openllama_cli.generation.decode.sampling import require_finite
    from openllama_cli.models.checkpoint import read_errors as load_errors
    from openllama_cli.models.checkpoint.inspect import inspect
    from openllama_cli.system.device import main_device

    checkpoint = inspect(write_tiny_llama(tmp_path / "model"))
    for problem, device, code, shared in (
        (torch.OutOfMemoryError("CUDA out of memory"), "cuda:0", "cuda_out_of_memory", ["smaller model"]),
        (MemoryError(), "cpu", "cpu_out_of_memory", ["bfloat16", "smaller model"]),
    ):
        error = load_errors.explain(problem, checkpoint, torch.device(device), torch.float32)
        assert error is not None
        agrees(error, code, *shared)
    full = OSError(28, "Auf dem Gerät ist kein Speicherplatz mehr verfügbar")

    def fill() -> None:
        with load_errors.explained(checkpoint, torch.device("cpu"), torch.float32):
            raise full

    agrees(failing(fill), "disk_full", "ree some space", "TMPDIR")
    agrees(failing(lambda: require_finite(torch.tensor([float("nan")]))), "nan_probabilities", "float32", "weights are damaged")
    if torch.version.cuda is None and torch.version.hip is None:
        agrees(failing(lambda: main_device("cuda")), "torch_without_cuda", "https://pytorch.org/get-started/locally/")


def test_a_prompt_that_is_too_long(olc: Any, tiny_model: Path, tmp_path: Path) -> None:
    """Through the command line: what it prints is what is explained."""
    run = olc("complete", "whale " * 300, "-m", str(tiny_model))
    assert run.code == 2
    diagnosis = explain([run.messages])
    assert [one.error.code for one in diagnosis.explanations] == ["context_too_long"]
    assert "horten" in run.messages
    assert "horten" in diagnosis.explanations[0].error.fix


# -- their lines ----------------------------------------------------------------------------------------------------


def own(diagnosis: Diagnosis) -> tuple[str, str] | None:
    return None if diagnosis.own is None else (diagnosis.own.cause, diagnosis.own.remedy)


def test_an_error_outside_the_catalogue_says_itself_what_to_do() -> None:
    error = failing(lambda: ModelSpec(device="toaster"))
    diagnosis = explain(["some output\n", printed(error)])
    assert diagnosis.explanations == ()
    assert own(diagnosis) == (error.cause, error.remedy)
    assert diagnosis.own is not None
    assert diagnosis.own.line_number == 2


def test_lines_that_a_terminal_wrapped() -> None:
    lines = [
        "error: meta-llama/Llama-2-7b-hf is gated, and your saved",
        "token, if any, gives no access to it",
        "  fix: accept",
    ]
    assert [one.error.code for one in explain(["\n".join(lines)]).explanations] == ["hub_gated"]
    assert own(explain(["error: an odd\nthing happened\n  fix: do\n"])) == ("an odd thing happened", "do")


def test_a_traceback_of_debug_mode() -> None:
    line = "openllama_cli.errors.HubError: org/x is gated, and your saved token, if any, gives no access to it\n"
    assert [one.error.code for one in explain([f"Traceback (most recent call last):\n{line}"]).explanations] == ["hub_gated"]


def test_fix_lines_of_others_are_not_olc() -> None:
    assert explain(["  fix: something\n"]).own is None
    assert explain(["error: x\n" + "more\n" * 2000 + "  fix: something\n"]).own is None
