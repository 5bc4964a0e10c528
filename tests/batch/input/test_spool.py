"""Standard input kept in a file: whole or not at all."""

import io
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openllama_cli.batch.input.lines import spool
from openllama_cli.errors import OlcError


def test_every_byte_is_kept(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    path = tmp_path / "out.jsonl.input"
    assert spool(io.BytesIO(data), path) == len(data)
    assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_later_input_replaces_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "input"
    spool(io.BytesIO(b"first, and longer"), path)
    assert spool(io.BytesIO(b"second"), path) == 6
    assert path.read_bytes() == b"second"


def test_an_empty_input_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "input"
    assert spool(io.BytesIO(b""), path) == 0
    assert path.read_bytes() == b""
    spool(io.BytesIO(b"rows"), path)
    assert spool(io.BytesIO(b""), path) == 0
    assert path.read_bytes() == b"rows"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_no_bug(tmp_path: Path) -> None:
    with pytest.raises(OlcError, match="No such file") as failure:
        spool(io.BytesIO(b"x"), tmp_path / "missing" / "input")
    assert failure.value.exit_code == 1


def test_an_input_larger_than_may_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"earlier")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OlcError, match="File too large"):
            spool(io.BytesIO(b"x" * 200_000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from openllama_cli.batch.input.lines import spool;"
        "print(spool(sys.stdin.buffer, Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, tmp_path / "input"]
    run = subprocess.run(command, input=b"a\n" * 200_000, capture_output=True, timeout=60)
    assert run.stdout == b"400000\n"
    assert (tmp_path / "input").read_bytes() == b"a\n" * 200_000
