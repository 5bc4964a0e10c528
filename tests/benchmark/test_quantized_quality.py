"""What quantized weights cost the demo model: `python -m openllama_cli.benchmark.quality` measures more of it."""

import random
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.benchmark.quality import perplexity
from openllama_cli.demo_model.corpus import held_out_texts
from openllama_cli.generation.forward.quantized_linear import int4_works
from openllama_cli.generation.session import choose_forward
from openllama_cli.models.find import demo_folder
from openllama_cli.models.loading.load import load
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.native.library import usable

needs_int4 = pytest.mark.skipif(not (usable() or int4_works()), reason="no int4 product works on this processor")
TEXTS = 40


def measured(quantize: Any) -> float:
    folder = ModelFolder(demo_folder(), "demo", "demo")
    loaded = load(folder, ModelSpec(device="cpu", quantize=quantize))
    eos = min(loaded.tokenizer.eos_ids)
    texts = random.Random(0).sample(held_out_texts(), TEXTS)
    return perplexity(choose_forward(loaded), [[*loaded.tokenizer.encode(text), eos] for text in texts])


@pytest.fixture(scope="module")
def unquantized() -> float:
    return measured(None)


@pytest.mark.parametrize(("method", "ratio"), [("int8", 1.01), pytest.param("int4", 1.03, marks=needs_int4)])
def test_perplexity_stays_near_the_unquantized_models(
    unquantized: float, method: Any, ratio: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert unquantized * 0.95 < measured(method) < unquantized * ratio
