"""What a container may use: the CPU time and memory that Linux control groups grant, version 1 or 2.

psutil and transformers see the whole machine; a process that takes more memory than its group grants is killed, and one with
more threads than its group has CPU time for waits in every barrier.
"""

from dataclasses import dataclass
from pathlib import Path

# Version 1 writes "no limit" as the largest multiple of a page.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Limits:
    """cpus: processors' worth of time. memory: bytes. memory_used: of that, without file cache that can be dropped."""

    cpus: float | None = None
    memory: int | None = None
    memory_used: int | None = None


def limits(root: Path = Path("/")) -> Limits:
    """The limits of this process, None for what is not limited or not known.

    root: where /proc and /sys are. A limit may be set on any group above the process's own; the tightest counts.
    """
    groups = _groups(root / "proc/self/cgroup")
    mounted = root / "sys/fs/cgroup"
    unified = mounted if (mounted / "cgroup.controllers").exists() else mounted / "unified"
    cpus: list[float] = []
    memory: list[tuple[int, int]] = []  # limit, used
    for folder in _upwards(unified, groups.get("", "/")):
        cpus += _quota((_text(folder / "cpu.max") or "").split())
        memory += _memory(folder, "memory.max", "memory.current", "inactive_file")
    for folder in _upwards(mounted / "memory", groups.get("memory", "/")):
        memory += _memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for name in ("cpu", "cpu,cpuacct"):
        for folder in _upwards(mounted / name, groups.get("cpu", "/")):
            cpus += _quota([_text(folder / f"cpu.cfs_{part}_us") or "" for part in ("quota", "period")])
    tightest = min(memory, key=lambda pair: pair[0] - pair[1], default=(None, None))
    return Limits(min(cpus, default=None), *tightest)


def _groups(file: Path) -> dict[str, str]:
    """Controller → path of this process's group; version 2 has the controller ""."""
    found: dict[str, str] = {}
    for line in (_text(file) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _upwards(mounted: Path, path: str) -> list[Path]:
    """The group's folder and those above it, as far as they can be seen: in a container often only the mounted one."""
    inside = Path(path.lstrip("/"))
    return [folder for folder in (mounted / inside, *(mounted / parent for parent in inside.parents)) if folder.is_dir()]


def _quota(words: list[str]) -> list[float]:
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
        return [int(words[0]) / int(words[1])]
    return []


def _memory(folder: Path, limit: str, usage: str, droppable: str) -> list[tuple[int, int]]:
    most, used = _text(folder / limit) or "", _text(folder / usage) or ""
    if not most.isdecimal() or not used.isdecimal() or int(most) >= _UNLIMITED:
        return []
    lines = (line.split() for line in (_text(folder / "memory.stat") or "").splitlines())
    cache = next((int(words[1]) for words in lines if len(words) == 2 and words[0] == droppable), 0)
    return [(int(most), max(0, int(used) - cache))]


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
