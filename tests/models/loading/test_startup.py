"""Before torch is imported: how threads wait, and weights that are read ahead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from openllama_cli.models.loading.startup import prepare_environment, read_ahead


@pytest.mark.parametrize("chosen", [None, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"])
def test_spinning_is_bounded_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    env = {} if chosen is None else {chosen: "as I like", "THP_MEM_ALLOC_ENABLE": "0"}
    monkeypatch.setattr(os, "environ", env)
    prepare_environment()
    expected = {"GOMP_SPINCOUNT": "2000", "THP_MEM_ALLOC_ENABLE": "1"}
    assert env == (expected if chosen is None else {chosen: "as I like", "THP_MEM_ALLOC_ENABLE": "0"})


@pytest.mark.parametrize("command", ["complete", "generate", "batch"])
def test_spinning_is_bounded_before_torch_is_imported(tiny_model: Path, tmp_path: Path, command: str) -> None:
    code = (
        "import builtins, os, sys\n"
        "real = builtins.__import__\n"
        "def spy(name, *rest, **more):\n"
        "    if name == 'torch': sys.exit(os.environ.get('GOMP_SPINCOUNT'))\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = spy\n"
        "from openllama_cli.cli import main\n"
        "main()\n"
    )
    (tmp_path / "in.txt").write_text("x\n")
    source = [str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.jsonl")] if command == "batch" else ["x"]
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    arguments = [sys.executable, "-c", code, command, *source, "-n", "1", "-m", str(tiny_model)]
    run = subprocess.run(arguments, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    assert run.stderr == "2000\n"


def test_files_are_read_ahead_and_missing_ones_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1 << 20))
    thread = read_ahead([file])
    if thread is not None:
        file.unlink()
        thread.join(10)
        assert not thread.is_alive()
