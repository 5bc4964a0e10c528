"""When the compiled kernels are used, and when not, and what they do not accept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openllama_cli.native import library, sources
from openllama_cli.native.matmul import Kind, check, matmul
from tests.support.marks import needs_kernels


@pytest.mark.parametrize("break_it", [Path.unlink, lambda file: file.write_bytes(b"no library")], ids=["none", "damaged"])
def test_without_a_library_nothing_is_usable(
    break_it: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "kernels.so"
    file.touch()
    break_it(file)
    monkeypatch.setattr(library, "LIBRARY", file)
    assert library.functions.__wrapped__() is None


@needs_kernels
def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.functions.__wrapped__() is not None
    monkeypatch.setattr(library, "fingerprint", lambda: "0" * 64)
    assert library.functions.__wrapped__() is None


def test_the_fingerprint_is_of_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for file in (*sources.FOLDER.glob("*.c"), *sources.FOLDER.glob("*.h")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = sources.fingerprint()
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    assert sources.fingerprint() == before
    for file in tmp_path.iterdir():
        text = file.read_text()
        file.write_text(text + "\n")
        assert sources.fingerprint() != before
        file.write_text(text)


@pytest.mark.parametrize(
    ("kind", "weight", "scales", "out"),
    [
        (Kind.BFLOAT16, torch.zeros(4, 8), None, 4),
        (Kind.FLOAT16, torch.zeros(4, 8).half(), None, 5),
        (Kind.BFLOAT16, torch.zeros(8, 4).bfloat16().T, None, 4),
        (Kind.INT8, torch.zeros(4, 8, dtype=torch.int8), None, 4),
        (Kind.INT8, torch.zeros(4, 8, dtype=torch.int8), torch.ones(4).half(), 4),
        (Kind.INT8, torch.zeros(1, 65_537, dtype=torch.int8), torch.ones(1), 1),
        (Kind.INT4, torch.zeros(4, 32, dtype=torch.uint8), torch.ones(4, 1, 2).bfloat16(), 4),
        (Kind.INT4, torch.zeros(4, 64, dtype=torch.uint8), torch.ones(2, 4, 2).bfloat16(), 4),
    ],
)
def test_weights_that_would_be_read_wrongly_are_refused(
    kind: Kind, weight: torch.Tensor, scales: torch.Tensor | None, out: int
) -> None:
    with pytest.raises(ValueError, match="the kernels do not accept"):
        check(kind, weight, scales, out)


@pytest.mark.parametrize("x", [torch.zeros(1, 7), torch.zeros(1, 8).half(), torch.zeros(1, 8).double()])
def test_activations_that_do_not_fit_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="do not fit BFLOAT16 weights"):
        matmul(Kind.BFLOAT16, torch.zeros(4, 8).bfloat16(), None, x, 4)
