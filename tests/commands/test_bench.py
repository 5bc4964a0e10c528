"""`olc bench`: a measurement in a fresh process, whole ones in forks, and usage errors before anything is measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.benchmark.runs import METRICS
from openllama_cli.benchmark.shapes import SHAPES
from openllama_cli.models.checkpoint.shape import LlamaShape
from tests.conftest import Olc
from tests.support.forked import run_module

SMALL = ("--runs", "1", "--prompt-tokens", "8", "-n", "4")


@pytest.mark.slow
def test_olc_and_the_baseline_are_compared(olc: Olc, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openllama_cli.benchmark.runs.subprocess.run", run_module)
    svg = tmp_path / "bars.svg"
    options = ["-m", str(tiny_model), *SMALL, "--batch-size", "3", "--quantize", "int8", "--svg", str(svg)]
    # A cache of its own: the quantized copy would show in other tests' lists.
    result = olc("bench", *options, "--against", "transformers", "--json", env={"XDG_CACHE_HOME": str(tmp_path)})
    assert result.code == 0, result.messages
    document = json.loads(result.text)
    assert document["model"] == str(tiny_model)
    assert all(measured["precision"] for measured in document["results"])
    ours, theirs = document["results"]
    assert (ours["name"], theirs["name"]) == ("olc int8, 3 rows", "model.generate, 3 rows")
    assert (ours["engine"], theirs["engine"]) == ("loop", "transformers")
    for measured in (ours, theirs):
        assert measured["process_s"][0] > measured["load_s"][0] > 0
        assert measured["decode_tokens_per_s"][0] > 0
        assert measured["peak_memory_bytes"][0] > 50e6
    ratio = ours["ratios"]["decode_tokens_per_s"]["median"]
    assert ratio == pytest.approx(ours["decode_tokens_per_s"][0] / theirs["decode_tokens_per_s"][0])
    assert document["bandwidth_gb_per_s"] > 0.1
    picture = svg.read_text()
    assert "decode, tokens/s" in picture.replace("&#160;", " ")
    assert "url(" not in picture.replace("url(#", "")


@pytest.mark.slow
def test_a_fresh_process_is_measured_and_a_pipe_gets_a_table(
    olc: Olc, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openllama_cli.commands.bench.measure_bandwidth", lambda device: 10.0)
    result = olc("bench", "-m", str(tiny_model), *SMALL)
    assert result.code == 0, result.messages
    assert "measuring the memory bandwidth (0 of 1 done)\nmeasuring olc (0 of 1 done)\n" in result.messages
    header, line = result.text.splitlines()
    cells = dict(zip(header.split("\t"), line.split("\t"), strict=True))
    assert cells[""] == "olc"
    assert cells["of bandwidth"].endswith("%")
    assert "every figure from fresh processes" in result.messages


def test_llama_cpp_runs_a_file_of_equal_bits_at_every_length(olc: Olc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With figures that are made up: olc's are three times as good as llama.cpp's, and the machine is busy."""
    asked: list[dict[str, Any]] = []

    def measure(request: dict[str, Any], name: str) -> dict[str, Any]:
        asked.append(request)
        speed = {"loop": 6.0, "transformers": 3.0, "llama.cpp": 2.0}[request["engine"]]
        return {**dict.fromkeys(METRICS, speed), "weight_bytes_per_token": 7, "precision": request["dtype"]}

    monkeypatch.setattr("openllama_cli.benchmark.runs._measure", measure)
    monkeypatch.setattr("openllama_cli.commands.bench.measure_bandwidth", lambda device: 10.0)
    monkeypatch.setattr("openllama_cli.commands.bench.check_installed", lambda: None)
    monkeypatch.setattr("os.getloadavg", lambda: (2.5, 1.0, 1.0))
    monkeypatch.setattr("openllama_cli.benchmark.shapes._DRAWN", 1 << 16)
    shape = LlamaShape(64, 96, layers=1, heads=4, kv_heads=2, head_dim=16, vocab=32000, context=64)
    monkeypatch.setitem(SHAPES, "tiny", shape)
    options = ["--shape", "tiny", "--quantize", "int4", "--against", "llama.cpp", "--against", "transformers"]
    command = ["bench", *options, "--prompt-tokens", "8,16", "-n", "4", "--runs", "2"]
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    result = olc(*command, "--json", env=environment)
    assert result.code == 0, result.messages
    document = json.loads(result.text)
    names = ["olc int4, 8 tokens", "model.generate, 8 tokens", "llama.cpp, 8 tokens", "olc int4, 16 tokens"]
    assert [each["name"] for each in document["results"]][:4] == names
    assert document["results"][0]["ratios_to_llama_cpp"]["decode_tokens_per_s"]["median"] == 3
    assert document["results"][3]["ratios"]["prefill_tokens_per_s"]["median"] == 2
    file = tmp_path / "olc" / "bench" / "tiny-float16" / "q4_0.gguf"
    assert {job["folder"] for job in asked if job["engine"] == "llama.cpp"} == {str(file)}
    assert file.is_file()
    assert document["load_average"] == 2.5
    assert "olc: the machine was busy, so measure again when it is quiet: load average 2.5 at the start" in result.messages
    assert "measuring llama.cpp, 16 tokens (11 of 12 done)" in result.messages

    result = olc(*command, env=environment)
    assert "\ntimes model.generate\tprefill\t" in result.text
    assert "\ntimes llama.cpp\tprefill\t" in result.text
    assert "olc int4, 16 tokens\t3\t3\t" in result.text
    assert "llama.cpp in Q4_0, prompts of 8, 16 tokens" in result.messages


def test_a_gpu_that_is_not_there_is_said_in_the_words_of_every_command(olc: Olc, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("openllama_cli.benchmark.runs.subprocess.run", run_module)
    result = olc("bench", "-m", "demo", "--device", "cuda")
    assert result.code == 1
    assert "--device cuda needs a CUDA build of torch" in result.messages
