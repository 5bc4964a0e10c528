"""`hatch_build.py`: what becomes of the kernels when olc is installed, with a compiler and without."""

import importlib.util
import platform
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from openllama_cli.native import library
from openllama_cli.native.sources import TIERS, Tier, arguments

ROOT = Path(__file__).parents[2]
NATIVE = Path("openllama_cli/native")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build hook, without hatchling, which only an installation has."""
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / NATIVE, tmp_path / NATIVE, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def build(hook: ModuleType, tree: Path, version: str = "standard") -> tuple[dict[str, Any], list[str]]:
    """What the hook tells hatchling, and the user."""
    warnings: list[str] = []
    made = hook.CompileKernels()
    made.root, made.app = str(tree), SimpleNamespace(display_warning=warnings.append)
    data: dict[str, Any] = {"artifacts": []}
    made.initialize(version, data)
    return data, warnings


def compiler(tree: Path, script: str) -> str:
    file = tree / "compiler"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@pytest.mark.skipif(shutil.which("cc") is None or platform.machine() != "x86_64", reason="needs a C compiler on x86")
def test_the_library_lies_beside_its_sources_and_goes_into_the_wheel(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One tier, without the optimization that takes most of the time: installation compiles them all, see test_library.
    script = 'case "$*" in *-DAVX512*) eval "touch \\${$#}";; *) exec cc "$@" -O0;; esac'
    monkeypatch.setenv("CC", compiler(tree, script))
    data, warnings = build(hook, tree)
    assert not warnings
    assert data.pop("tag").startswith("py3-none-linux_")
    assert data == {"artifacts": [str(NATIVE / "*.so")], "pure_python": False}
    assert {tier.library.name for tier in TIERS} == {file.name for file in (tree / NATIVE).glob("*.so")}
    assert (tree / NATIVE / TIERS[-1].library.name).stat().st_size > 10_000
    assert not list((tree / NATIVE).glob("*.tmp"))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "No such file"),
        ("echo 'error: unknown -mamx-tile' >&2; exit 1", "unknown -mamx-tile"),
        ("exit 1", "exit status 1"),
        ('echo "$1 said $2" >&2; exit 1', "--first said argument with spaces"),
    ],
)
def test_without_a_compiler_that_can_it_is_installed_all_the_same(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, reason: str
) -> None:
    command = str(tree / "no-compiler") if script is None else compiler(tree, script)
    monkeypatch.setenv("CC", f"{command} --first 'argument with spaces'")
    older = tree / NATIVE / TIERS[0].library.name
    older.write_bytes(b"of older sources")
    data, warnings = build(hook, tree)
    assert data == {"artifacts": []}
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert not list((tree / NATIVE).glob("*.tmp"))
    # It is of other sources, so nobody loads it; but a process may have it open.
    assert older.read_bytes() == b"of older sources"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 processor")
def test_an_older_compiler_leaves_out_the_tiers_that_it_does_not_know(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'case "$*" in *-mamx*) echo "unknown -mamx-tile" >&2; exit 1;; *) eval "touch \\${$#}";; esac'
    monkeypatch.setenv("CC", compiler(tree, script))
    data, warnings = build(hook, tree)
    assert data["artifacts"]
    assert warnings == [
        "olc's kernels for AMX are not compiled, so it will be slower: "
        f"{tree / 'compiler'} ended with exit status 1: unknown -mamx-tile"
    ]
    assert {file.name for file in (tree / NATIVE).glob("*.so")} == {tier.library.name for tier in TIERS[1:]}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 processor")
def test_an_editable_installation_has_what_this_processor_runs(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(tree, 'eval "touch \\${$#}"'))
    build(hook, tree, "editable")
    assert {file.name for file in (tree / NATIVE).glob("*.so")} >= {tier.library.name for tier in library.runnable()}


@pytest.mark.skipif(shutil.which("cc") is None or platform.machine() != "x86_64", reason="needs a C compiler on x86")
@pytest.mark.parametrize("tier", TIERS, ids=lambda tier: tier.name)
def test_the_sources_of_every_tier_are_valid(tier: Tier, tmp_path: Path) -> None:
    """Also of those that this processor does not run."""
    command = ["cc", *arguments(tier, tmp_path / "none"), "-fsyntax-only", "-Werror"]
    run = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized" in run.stderr:
        pytest.skip(f"this compiler does not know {tier.label}")
    assert (run.returncode, run.stderr) == (0, "")


def test_elsewhere_nothing_is_compiled(hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook.platform, "machine", lambda: "arm64")
    assert build(hook, tree) == ({"artifacts": []}, [])
