"""Compiles olc's kernels at installation. Without a C compiler, or on anything but Linux on x86, it installs without them."""

import contextlib
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SECONDS = 120


class CompileKernels(BuildHookInterface):
    """Puts the compiled library next to its sources and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        spec = importlib.util.spec_from_file_location("sources", Path(self.root) / "openllama_cli/native/sources.py")
        assert spec is not None
        assert spec.loader is not None
        sources = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sources)
        if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
            return
        new = sources.LIBRARY.with_suffix(f".{os.getpid()}.tmp")
        command = [*shlex.split(os.environ.get("CC") or "cc"), *sources.arguments(new)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            # Replaces an older library, which a process may have open, atomically.
            new.rename(sources.LIBRARY)
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip()
            self._without(new, f"{command[0]} ended with exit status {error.returncode}: {said[:500] or 'and said nothing'}")
            return
        except (OSError, subprocess.SubprocessError) as error:
            self._without(new, str(error))
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append("openllama_cli/native/kernels.so")

    def _without(self, new: Path, reason: str) -> None:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        self.app.display_warning(f"olc's kernels are not compiled, so it will be slower on processors with AMX: {reason}")
