"""`olc bench`: a measurement in a fresh process, whole ones in forks, and usage errors before anything is measured."""

import json
from pathlib import Path

import pytest

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
    header, line = result.text.splitlines()
    cells = dict(zip(header.split("\t"), line.split("\t"), strict=True))
    assert cells[""] == "olc"
    assert cells["of bandwidth"].endswith("%")
    assert "every figure from fresh processes" in result.messages


def test_a_gpu_that_is_not_there_is_said_in_the_words_of_every_command(olc: Olc, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("openllama_cli.benchmark.runs.subprocess.run", run_module)
    result = olc("bench", "-m", "demo", "--device", "cuda")
    assert result.code == 1
    assert "--device cuda needs a CUDA build of torch" in result.messages
