"""The C sources of the kernels, and the command that compiles them for each tier. `hatch_build.py` loads this file, without
torch.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
_MAIN = FOLDER / "kernels.c"


@dataclass(frozen=True, eq=False)
class Tier:
    """What the kernels are compiled for. name: as in OLC_KERNELS; label: as people are told; macros: of the C sources;
    capabilities: what the processor must have, beyond the tier below, as torch and the compiler name it.
    """

    name: str
    label: str
    macros: tuple[str, ...]
    capabilities: dict[str, str]

    @property
    def library(self) -> Path:
        """The compiled library."""
        return FOLDER / f"kernels_{self.name}.so"


_AVX2 = {"avx2": "avx2", "fma3": "fma", "f16c": "f16c"}
_AVX512 = {"avx512_f": "avx512f", "avx512_bw": "avx512bw", "avx512_vl": "avx512vl", "avx512_dq": "avx512dq"}
_BF16 = {"avx512_bf16": "avx512bf16", "avx512_vnni": "avx512vnni"}
_AMX = {"amx_tile": "amx-tile", "amx_bf16": "amx-bf16", "amx_int8": "amx-int8"}

# The fastest first.
TIERS = (
    Tier("amx", "AMX", ("AVX512", "BF16", "AMX"), _AVX2 | _AVX512 | _BF16 | _AMX),
    Tier("avx512bf16", "AVX-512 BF16", ("AVX512", "BF16"), _AVX2 | _AVX512 | _BF16),
    Tier("avx512", "AVX-512", ("AVX512",), _AVX2 | _AVX512),
    Tier("avx2", "AVX2", (), _AVX2),
)


def fingerprint() -> str:
    """SHA-256 of the sources and of the flags here: a library of other sources is not used."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted((*FOLDER.glob("*.c"), *FOLDER.glob("*.h"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def arguments(tier: Tier, to: Path) -> list[str]:
    """Compiler arguments that write a tier's library to `to`. AMX needs GCC 12 or Clang 16, AVX2 much less."""
    instructions = [f"-m{name}" for name in tier.capabilities.values()]
    macros = [f"-D{name}" for name in tier.macros]
    flags = ["-std=c11", "-O3", "-shared", "-fPIC", "-Wall", "-Wextra", f'-DOLC_SOURCES="{fingerprint()}"']
    return [*flags, "-D_GNU_SOURCE", *macros, *instructions, str(_MAIN), "-lm", "-o", str(to)]
