"""What llama.cpp is asked to compute, with a library in its place that writes it down; and what is said without one."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.benchmark.job import Job, prompts
from openllama_cli.benchmark.llama_cpp import check_installed
from openllama_cli.errors import OlcError

# The next token is 10 * sequence + position; each call of llama_decode adds a line to calls.jsonl.
FAKE = """
import ctypes, json, os, sys
from types import SimpleNamespace
VOCAB = 1000
said = open(os.environ["CALLS"], "a")
def llama_backend_init(): pass
def llama_model_default_params(): return SimpleNamespace()
def llama_model_load_from_file(path, params):
    return None if b"broken" in path else path
def llama_context_default_params(): return SimpleNamespace(n_batch=16)
def llama_init_from_model(model, params):
    print(json.dumps(vars(params)), file=said)
    return params
def llama_model_get_vocab(model): return model
def llama_vocab_n_tokens(vocab): return VOCAB
def llama_model_n_params(model): return 10 * VOCAB + 640
def llama_model_n_embd(model): return 10
def llama_batch_init(tokens, embd, sequences):
    return SimpleNamespace(token=[0] * tokens, pos=[0] * tokens, n_seq_id=[0] * tokens,
                           seq_id=[[0] for _ in range(tokens)], logits=[0] * tokens, n_tokens=0)
def llama_decode(context, batch):
    assert "torch" not in sys.modules, "it would take threads and memory"
    calls = [(batch.seq_id[i][0], batch.pos[i], batch.token[i], bool(batch.logits[i])) for i in range(batch.n_tokens)]
    print(json.dumps(calls), file=said, flush=True)
    context.calls = calls
    return 0
def llama_get_logits_ith(context, place):
    sequence, position, _, wanted = context.calls[place]
    assert wanted
    row = (ctypes.c_float * VOCAB)()
    row[10 * sequence + position] = 1.0
    context.kept = getattr(context, "kept", []) + [row]
    return ctypes.cast(row, ctypes.POINTER(ctypes.c_float))
"""


def measured(tmp_path: Path, job: Job) -> tuple[dict[str, Any], list[Any]]:
    """What a worker answers, and what it asked of the library."""
    (tmp_path / "llama_cpp.py").write_text(FAKE)
    calls = tmp_path / "calls.jsonl"
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path, "CALLS": str(calls), "OMP_NUM_THREADS": "3"}
    command = [sys.executable, "-m", "openllama_cli.benchmark.worker", json.dumps(asdict(job))]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), [json.loads(line) for line in calls.read_text().splitlines()]


def test_rows_run_in_one_batch_and_continue_with_their_likeliest_tokens(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "q4_0.gguf"), "llama.cpp", "Q4_0", "cpu", 8, 3, 2)
    answer, (context, *calls) = measured(tmp_path, job)
    rows = prompts(job, 1000)
    assert [len(row) for row in rows] == [4, 8]
    prefill = [[number, place, token] for number, row in enumerate(rows) for place, token in enumerate(row)]
    assert [call[:3] for call in calls[0]] == prefill
    assert [call[:2] for call in calls[0] if call[3]] == [[0, 3], [1, 7]], "logits of the last tokens only"
    # The first step's tokens are those of positions 3 and 7, and so on.
    assert calls[1:] == [[[0, 4, 3, True], [1, 8, 17, True]], [[0, 5, 4, True], [1, 9, 18, True]]]
    assert (context["n_seq_max"], context["n_threads"], context["n_threads_batch"]) == (2, 3, 3)
    assert (context["n_ctx"], context["n_batch"]) == (2 * 256, 16), "256 positions of a row hold 8 + 3"
    assert answer["precision"] == "Q4_0"
    assert answer["weight_bytes_per_token"] == 640 * 4.5 / 8, "the embedding is not read"
    assert answer["load_s"] > 0
    assert answer["decode_tokens_per_s"] > 0
    assert answer["peak_memory_bytes"] > 1e6


def test_what_llama_cpp_cannot_load_is_said(tmp_path: Path) -> None:
    answer, _ = measured(tmp_path, Job(str(tmp_path / "broken.gguf"), "llama.cpp", "F16", "cpu", 8, 3, 1))
    assert "broken.gguf" in answer["error"][0]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llama_cpp" else name)
    with pytest.raises(OlcError, match="needs llama-cpp-python in olc's") as caught:
        check_installed()
    assert caught.value.code == "llama_cpp_missing"
    assert caught.value.remedy.startswith("pip install llama-cpp-python   # the extra `bench`")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_installed()
