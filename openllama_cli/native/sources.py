"""The C sources of the kernels, and how they are compiled: for the build too (`hatch_build.py`), which has no torch."""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "kernels.so"
_MAIN = FOLDER / "kernels.c"
# The processor is asked for all of these before a kernel runs; see `library.usable`.
_INSTRUCTIONS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "avx512vnni", "fma", "f16c")
_TILES = ("amx-tile", "amx-bf16", "amx-int8")


def fingerprint() -> str:
    """Of the sources and the flags here, so that a library of older ones is not mistaken for one of these."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted((*FOLDER.glob("*.c"), *FOLDER.glob("*.h"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def arguments(to: Path) -> list[str]:
    """What a C compiler is given to compile the library: GCC 12 or Clang 16, or newer ones."""
    instructions = [f"-m{name}" for name in (*_INSTRUCTIONS, *_TILES)]
    flags = ["-std=c11", "-O3", "-shared", "-fPIC", "-Wall", "-Wextra", f'-DOLC_SOURCES="{fingerprint()}"']
    return [*flags, "-D_GNU_SOURCE", *instructions, str(_MAIN), "-lm", "-o", str(to)]
