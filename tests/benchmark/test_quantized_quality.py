"""What quantized weights cost the demo model, as its own command measures it on a few texts."""

import json
from pathlib import Path

import pytest

from openllama_cli.benchmark.quality import main
from tests.support.marks import needs_any_int4


@pytest.mark.parametrize(("method", "ratio"), [("int8", 1.01), pytest.param("int4", 1.03, marks=needs_any_int4)])
def test_perplexity_stays_near_the_unquantized_models(
    method: str, ratio: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["--quantize", method, "-m", "demo", "--device", "cpu", "--sample", "40", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["ratio"] == measured[method] / measured["unquantised"]
    assert 0.95 < measured["ratio"] < ratio
