"""What a disk that refuses a write makes olc say."""

import errno
import os
from pathlib import Path

import pytest

from openllama_cli.batch.journal.disk import write_error


@pytest.mark.parametrize(
    ("number", "folder", "code", "advice"),
    [
        (errno.ENOSPC, ".", "disk_full", "free some space"),
        (errno.EDQUOT, ".", "disk_full", "remove some of your files"),
        (errno.EFBIG, ".", "disk_full", "ulimit -f unlimited"),
        (errno.EIO, ".", "disk_error", "check the disk"),
        (errno.ENAMETOOLONG, ".", "disk_error", "shorter name"),
        (errno.EROFS, ".", "disk_error", "permissions"),
        (errno.EACCES, ".", "disk_error", "permissions"),
        (errno.ENOENT, "gone", "folder_gone", "move or mount it back"),
        (errno.EIO, "gone", "folder_gone", "move or mount it back"),
    ],
)
def test_every_refusal_of_a_disk_says_what_to_do(tmp_path: Path, number: int, folder: str, code: str, advice: str) -> None:
    error = write_error(OSError(number, os.strerror(number)), tmp_path / folder / "out.jsonl")
    assert error.code == code
    assert advice in error.remedy
    assert "out.jsonl" in error.cause
    assert "\n" not in error.cause + error.remedy
