"""Before torch is imported: how threads wait, and weights that are read ahead."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openllama_cli.models.loading.startup import map_pages, prepare_environment, read_ahead


@pytest.mark.parametrize("chosen", [None, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"])
def test_spinning_is_bounded_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    env = {} if chosen is None else {chosen: "as I like", "THP_MEM_ALLOC_ENABLE": "0"}
    monkeypatch.setattr(os, "environ", env)
    prepare_environment()
    expected = {"GOMP_SPINCOUNT": "2000", "THP_MEM_ALLOC_ENABLE": "1"}
    assert env == (expected if chosen is None else {chosen: "as I like", "THP_MEM_ALLOC_ENABLE": "0"})


def test_torch_is_imported_with_bounded_spinning_and_no_search_for_garbage(tiny_model: Path, tmp_path: Path) -> None:
    """By each command, in one fresh process: none of them gets beyond the import."""
    code = """
import builtins, gc, os, sys
real = builtins.__import__
def spy(name, *rest, **more):
    if name == "torch":
        sys.exit((os.environ.get("GOMP_SPINCOUNT"), gc.isenabled()))
    return real(name, *rest, **more)
builtins.__import__ = spy
from openllama_cli.cli import main
for command in (["complete", "x"], ["generate", "x"], ["batch", "in.txt", "-o", "out.jsonl"]):
    os.environ.pop("GOMP_SPINCOUNT", None)
    try:
        main([*command, "-n", "1", "-m", sys.argv[1]])
    except SystemExit as end:
        print(*end.code, gc.isenabled())
"""
    (tmp_path / "in.txt").write_text("x\n")
    command = [sys.executable, "-c", code, str(tiny_model)]
    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    assert (run.stdout, run.stderr) == ("2000 False True\n" * 3, "")


def test_files_are_read_ahead_and_missing_ones_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1 << 20))
    thread = read_ahead([file])
    if thread is not None:
        file.unlink()
        thread.join(10)
        assert not thread.is_alive()


def _old_system() -> bool:
    return not sys.platform.startswith("linux") or tuple(map(int, platform.release().split(".")[:2])) < (5, 14)


@pytest.mark.skipif(_old_system(), reason="takes Linux 5.14")
def test_pages_of_mapped_tensors_are_mapped_without_being_read(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(1 << 20))
    tensor = torch.from_file(str(file), shared=False, size=1 << 20, dtype=torch.uint8)
    thread = map_pages([tensor[100:-100]])
    assert thread is not None
    thread.join()
    area = Path("/proc/self/smaps").read_text().partition(str(file))[2]
    assert re.search(r"Rss: +1024 kB", area.partition("VmFlags")[0])
