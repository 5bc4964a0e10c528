"""When the compiled kernels are used, and when not, and what they do not accept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openllama_cli.errors import OlcError
from openllama_cli.native import library, sources
from openllama_cli.native.matmul import Kind, check, matmul
from tests.support.marks import needs_kernels


@pytest.mark.parametrize("break_it", [Path.unlink, lambda file: file.write_bytes(b"no library")], ids=["none", "damaged"])
def test_without_a_library_nothing_is_usable(
    break_it: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "FOLDER", tmp_path)
    for tier in sources.TIERS:
        tier.library.touch()
        break_it(tier.library)
    assert library.library.__wrapped__() is None


@needs_kernels
def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.library.__wrapped__() is not None
    monkeypatch.setattr(library, "fingerprint", lambda: "0" * 64)
    assert library.library.__wrapped__() is None


@needs_kernels
def test_the_fastest_tier_runs_or_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tier.name for tier in library.runnable()]
    for wanted, found in [(None, names[0]), ("", names[0]), *zip(names, names, strict=True), ("none", None)]:
        if wanted is None:
            monkeypatch.delenv("OLC_KERNELS", raising=False)
        else:
            monkeypatch.setenv("OLC_KERNELS", wanted)
        opened = library.library.__wrapped__()
        assert (opened.tier.name if opened else None) == found
    monkeypatch.setenv("OLC_KERNELS", "avx")
    with pytest.raises(OlcError, match="OLC_KERNELS=avx: no such kernels run here") as error:
        library.library.__wrapped__()
    assert error.value.remedy == f"use {', '.join([*names, 'none'])}, or unset it"


@pytest.mark.parametrize("missing", ["amx_int8", "avx512_vnni", "avx512_bw", "f16c"])
def test_a_tier_needs_all_its_instructions(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(library, "_processor_has", lambda *names: missing not in names)
    assert library.runnable() == [tier for tier in sources.TIERS if missing not in tier.capabilities]


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
