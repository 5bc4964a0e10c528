"""Files written completely or not at all, and fingerprints of large ones."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from openllama_cli.errors import OlcError
from openllama_cli.system.files import MIB, SAMPLE_BYTES, STRIDE_BYTES, atomic_write, file_fingerprint, sync_folder, write_all


def test_a_file_is_replaced_in_one_step_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        with atomic_write(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_after_an_exception_the_old_file_is_there_and_the_new_one_is_not(tmp_path: Path, error: BaseException) -> None:
    path, temporary = tmp_path / "file", tmp_path / "file.tmp"
    path.write_bytes(b"old")
    temporary.write_bytes(b"left by a killed process")

    def write_and_fail() -> None:
        with atomic_write(path, temporary=temporary) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_flush_replaces_nothing_but_a_file_system_may_flush_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = errno.EIO

    def broken(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"), atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
    code = errno.EINVAL
    sync_folder(tmp_path)


def test_all_is_written_where_the_system_accepts_less(monkeypatch: pytest.MonkeyPatch) -> None:
    written = bytearray()

    def accepts_three(descriptor: int, data: bytes) -> int:
        written.extend(data[:3])
        return len(data[:3])

    monkeypatch.setattr(os, "write", accepts_three)
    write_all(1, b"0123456789")
    assert written == b"0123456789"


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 16 * MIB])
def test_a_file_up_to_16_mib_is_hashed_completely(tmp_path: Path, size: int) -> None:
    file = tmp_path / "file"
    content = os.urandom(size)
    file.write_bytes(content)
    assert file_fingerprint(file) == {"bytes": size, "sha256": hashlib.sha256(content).hexdigest()}


SIZE = 64 * MIB + 12345


@pytest.mark.parametrize(
    ("start", "count", "size"),
    [
        *((place, 1, SIZE) for place in (0, MIB - 1, STRIDE_BYTES, 7 * STRIDE_BYTES + SAMPLE_BYTES - 1, SIZE - MIB, SIZE - 1)),
        *((start, STRIDE_BYTES + SAMPLE_BYTES, SIZE) for start in range(0, 60 * MIB, 3 * MIB + 4321)),
        (0, 0, SIZE + 1),
    ],
)
def test_a_change_of_a_sampled_place_of_any_4_mib_and_of_the_length_is_seen(
    tmp_path: Path, start: int, count: int, size: int
) -> None:
    file = tmp_path / "model.safetensors"  # Mostly hole.
    found = []
    for content, length in ((b"", SIZE), (b"\x01" * count, size)):
        with file.open("wb") as target:
            target.truncate(length)
            target.seek(start)
            target.write(content)
        found.append(file_fingerprint(file))
    assert found[0] != found[1]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OlcError, match=r"gone\.safetensors cannot be read: No such file"):
        file_fingerprint(tmp_path / "gone.safetensors")
