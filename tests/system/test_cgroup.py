"""Limits of containers, read from trees of files as Linux lays them out."""

from pathlib import Path

import pytest

from openllama_cli.system.cgroup import Limits, limits

V2 = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cgroup.controllers": "cpu memory"}
V1 = "sys/fs/cgroup/memory/memory"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {
                **V2,
                "sys/fs/cgroup/cpu.max": "150000 100000",
                "sys/fs/cgroup/memory.max": "4000000000",
                "sys/fs/cgroup/memory.current": "1500000000",
                "sys/fs/cgroup/memory.stat": "anon 900000000\ninactive_file 500000000",
            },
            Limits(1.5, 4_000_000_000, 1_000_000_000),
        ),
        # The pod has 2 GB left, the container alone would have 3.
        (
            {
                "proc/self/cgroup": "0::/pod/container",
                "sys/fs/cgroup/cgroup.controllers": "cpu memory",
                "sys/fs/cgroup/pod/cpu.max": "200000 100000",
                "sys/fs/cgroup/pod/memory.max": "8000000000",
                "sys/fs/cgroup/pod/memory.current": "6000000000",
                "sys/fs/cgroup/pod/container/cpu.max": "max 100000",
                "sys/fs/cgroup/pod/container/memory.max": "4000000000",
                "sys/fs/cgroup/pod/container/memory.current": "1000000000",
            },
            Limits(2.0, 8_000_000_000, 6_000_000_000),
        ),
        (
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc",
                f"{V1}.limit_in_bytes": "2000000000",
                f"{V1}.usage_in_bytes": "700000000",
                f"{V1}.stat": "total_inactive_file 200000000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            Limits(4.0, 2_000_000_000, 500_000_000),
        ),
        ({}, Limits()),
        (V2 | {"sys/fs/cgroup/memory.max": "max"}, Limits()),
        (
            {
                "proc/self/cgroup": "4:memory:/\n1:cpu:/",
                f"{V1}.limit_in_bytes": "9223372036854771712",
                f"{V1}.usage_in_bytes": "700000000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            Limits(),
        ),
    ],
    ids=[
        *("version 2 without the cache that can be dropped", "the tightest of nested groups"),
        *("version 1 mounted as the root", "no control groups", "version 2 without limits", "version 1 without limits"),
    ],
)
def test_limits_are_read(tmp_path: Path, files: dict[str, str], expected: Limits) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert limits(tmp_path) == expected


def test_this_machine_is_read_without_an_error() -> None:
    found = limits()
    assert found.cpus is None or found.cpus > 0
    assert (found.memory is None) == (found.memory_used is None)
