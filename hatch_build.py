"""Compiles olc's kernels at installation. Without a C compiler, or on anything but Linux on x86, it installs without them."""

import contextlib
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SECONDS = 120


class CompileKernels(BuildHookInterface):
    """Puts the compiled libraries next to their sources and into the wheel.

    All tiers, since a wheel may go to another machine; an editable installation stays on this one.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        spec = importlib.util.spec_from_file_location("olc_native_sources", Path(self.root) / "openllama_cli/native/sources.py")
        assert spec is not None
        assert spec.loader is not None
        sources = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = sources  # dataclasses look their module up.
        spec.loader.exec_module(sources)
        if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
            return
        compiler = shlex.split(os.environ.get("CC") or "cc")
        tiers = [tier for tier in sources.TIERS if version != "editable" or _runs_here(tier)]
        with ThreadPoolExecutor() as pool:
            reasons = list(pool.map(partial(_compile, compiler, sources), tiers))
        if said := next(filter(None, reasons), None):
            labels = [tier.label for tier, reason in zip(tiers, reasons, strict=True) if reason]
            self.app.display_warning(f"olc's kernels for {', '.join(labels)} are not compiled, so it will be slower: {said}")
        if all(reasons):
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append("openllama_cli/native/*.so")


def _runs_here(tier: Any) -> bool:
    """Whether this processor has a tier's instructions, or might have. Linux names them as compilers do, but for dashes."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").replace("_", "").split())
    except OSError:
        return True
    return {name.replace("-", "") for name in tier.capabilities.values()} <= flags


def _compile(compiler: list[str], sources: Any, tier: Any) -> str | None:
    """Compiles the kernels for a tier; returns why it cannot be done."""
    new = tier.library.with_suffix(f".{os.getpid()}.tmp")
    try:
        command = [*compiler, *sources.arguments(tier, new)]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
        if run.returncode == 0:
            # Replaces an older library, which a process may have open, atomically.
            new.rename(tier.library)
            return None
        return f"{compiler[0]} ended with exit status {run.returncode}: {run.stderr.strip()[:500] or 'and said nothing'}"
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
