"""A shape in transformers' words, and back."""

import json
from pathlib import Path

from openllama_cli.models.checkpoint.config import read_config
from openllama_cli.models.checkpoint.shape import LlamaShape
from tests.support.tiny_models import write_meta_llama

# Every number another one, so that none can stand in for its neighbor, and none a default.
SHAPE = LlamaShape(24, 40, 3, 6, 2, 4, 100, 77, rms_norm_eps=2e-5, tie=True, attention_bias=True, mlp_bias=True)


def test_the_config_of_a_shape_describes_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | SHAPE.config()))
    config, shape = read_config(tmp_path)
    assert shape == SHAPE
    assert config.items() >= SHAPE.config().items()


def test_a_meta_checkpoint_has_the_config_of_its_shape(tmp_path: Path) -> None:
    from openllama_cli.models.checkpoint.meta import read_meta

    checkpoint = read_meta(write_meta_llama(tmp_path / "model"))
    assert checkpoint.config.items() >= checkpoint.shape.config().items()
