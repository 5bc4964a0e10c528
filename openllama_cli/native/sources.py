"""The C sources of the kernels and the command that compiles them. `hatch_build.py` loads this file, without torch."""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "kernels.so"
_MAIN = FOLDER / "kernels.c"
# `library.usable` checks that the processor has all of these.
_INSTRUCTIONS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "avx512vnni", "fma", "f16c")
_TILES = ("amx-tile", "amx-bf16", "amx-int8")


def fingerprint() -> str:
    """SHA-256 of the sources and of the flags here: a library of other sources is not used."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted((*FOLDER.glob("*.c"), *FOLDER.glob("*.h"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def arguments(to: Path) -> list[str]:
    """Compiler arguments that write the library to `to`, for GCC 12 or Clang 16, or newer."""
    instructions = [f"-m{name}" for name in (*_INSTRUCTIONS, *_TILES)]
    flags = ["-std=c11", "-O3", "-shared", "-fPIC", "-Wall", "-Wextra", f'-DOLC_SOURCES="{fingerprint()}"']
    return [*flags, "-D_GNU_SOURCE", *instructions, str(_MAIN), "-lm", "-o", str(to)]
