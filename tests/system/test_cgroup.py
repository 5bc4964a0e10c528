"""Limits of containers, read from trees of files as Linux lays them out."""

from pathlib import Path

import pytest

from openllama_cli.system.cgroup import Limits, limits


def tree(root: Path, **files: str) -> Path:
    """Write files, given as path with "__" for "/" (and "_dot_" for "."), below root."""
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


def test_version_2_limits_are_read_without_the_cache_that_can_be_dropped(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__self__cgroup="0::/",
        sys__fs__cgroup__cgroup_dot_controllers="cpu memory",
        sys__fs__cgroup__cpu_dot_max="150000 100000",
        sys__fs__cgroup__memory_dot_max="4000000000",
        sys__fs__cgroup__memory_dot_current="1500000000",
        sys__fs__cgroup__memory_dot_stat="anon 900000000\ninactive_file 500000000",
    )
    assert limits(tmp_path) == Limits(1.5, 4_000_000_000, 1_000_000_000)


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__self__cgroup="0::/pod/container",
        sys__fs__cgroup__cgroup_dot_controllers="cpu memory",
        sys__fs__cgroup__pod__cpu_dot_max="200000 100000",
        sys__fs__cgroup__pod__memory_dot_max="8000000000",
        sys__fs__cgroup__pod__memory_dot_current="6000000000",
        sys__fs__cgroup__pod__container__cpu_dot_max="max 100000",
        sys__fs__cgroup__pod__container__memory_dot_max="4000000000",
        sys__fs__cgroup__pod__container__memory_dot_current="1000000000",
    )
    # The pod has 2 GB left, the container alone would have 3.
    assert limits(tmp_path) == Limits(2.0, 8_000_000_000, 6_000_000_000)


def test_version_1_limits_are_read_where_the_group_is_mounted_as_the_root(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__self__cgroup="9:name=systemd:/\n4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="2000000000",
        sys__fs__cgroup__memory__memory_dot_usage_in_bytes="700000000",
        sys__fs__cgroup__memory__memory_dot_stat="total_inactive_file 200000000",
        **{"sys__fs__cgroup__cpu,cpuacct__cpu_dot_cfs_quota_us": "400000"},
        **{"sys__fs__cgroup__cpu,cpuacct__cpu_dot_cfs_period_us": "100000"},
    )
    assert limits(tmp_path) == Limits(4.0, 2_000_000_000, 500_000_000)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc__self__cgroup": "0::/", "sys__fs__cgroup__cgroup_dot_controllers": "", "sys__fs__cgroup__memory_dot_max": "max"},
        {
            "proc__self__cgroup": "4:memory:/\n1:cpu:/",
            "sys__fs__cgroup__memory__memory_dot_limit_in_bytes": "9223372036854771712",
            "sys__fs__cgroup__memory__memory_dot_usage_in_bytes": "700000000",
            "sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us": "-1",
            "sys__fs__cgroup__cpu__cpu_dot_cfs_period_us": "100000",
        },
    ],
    ids=["no control groups", "version 2", "version 1"],
)
def test_no_limit_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    assert limits(tree(tmp_path, **files)) == Limits()


def test_this_machine_is_read_without_an_error() -> None:
    found = limits()
    assert found.cpus is None or found.cpus > 0
    assert (found.memory is None) == (found.memory_used is None)
