"""Entries that wait in a temporary file: what a full disk does."""

import io
import tempfile
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.compare.entries import entries
from openllama_cli.compare.kept import Kept
from openllama_cli.compare.lines import Lines
from openllama_cli.errors import UsageError

ENTRY = entries({"custom_id": "a", "text": "x" * 20_000}, 0)[0]


def full(*_: Any, **__: Any) -> Any:
    return Path("/dev/full").open("r+b")


def refused(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_an_error_that_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(UsageError) as failure, Kept(Lines("b.jsonl", io.BytesIO())) as kept:
        kept.get(kept.add(ENTRY, 0, 0))
    assert failure.value.code == "diff_temporary"
    assert failure.value.cause == "olc diff's temporary file failed: No space left on device"
    assert failure.value.remedy == f"free space in {tempfile.gettempdir()}, or name another folder in TMPDIR"


def test_no_temporary_file_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(UsageError) as failure:
        Kept(Lines("b.jsonl", io.BytesIO()))
    assert failure.value.code == "diff_temporary"
