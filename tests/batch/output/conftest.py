"""An INPUT and an OUTPUT."""

from pathlib import Path

import pytest

from openllama_cli.batch.output.output import OutputFiles


@pytest.fixture
def files(tmp_path: Path) -> OutputFiles:
    return OutputFiles.of(tmp_path / "out.jsonl")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_text('{"prompt": "x"}\n')
    return file
