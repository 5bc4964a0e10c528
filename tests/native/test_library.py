"""When the compiled kernels are used, and when not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from openllama_cli.native import library, sources
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
