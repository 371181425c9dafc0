"""Limits of containers, read from a tree like the kernel's."""

import os
from pathlib import Path

import psutil
import pytest

from service.machine import available_percent, usable_cores

GB = 1 << 30
MANY = frozenset(range(16))


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(MANY))


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_threads_that_share_a_core_count_once(tmp_path: Path) -> None:
    siblings = {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 8},{n % 8 + 8}" for n in MANY}
    assert usable_cores(tree(tmp_path, siblings)) == 8


def test_without_anything_to_read_every_core_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 16


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 16), ("400000 100000", 4), ("150000 100000", 1), ("50000 100000", 1), ("", 16)]
)
def test_a_quota_of_a_container_counts(tmp_path: Path, quota: str, cores: int) -> None:
    """As Docker shows it inside: the container's group is the root of what it sees."""
    assert usable_cores(tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": quota})) == cores


def test_the_tightest_of_the_groups_around_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pods/pod-1/box",
        "sys/fs/cgroup/pods/pod-1/box/cpu.max": "max 100000",
        "sys/fs/cgroup/pods/pod-1/cpu.max": "300000 100000",
        "sys/fs/cgroup/pods/cpu.max": "800000 100000",
    }
    assert usable_cores(tree(tmp_path, files)) == 3


@pytest.mark.parametrize("seen", ["docker/0123/", ""])
def test_version_1_of_control_groups_is_read_too(tmp_path: Path, seen: str) -> None:
    """Also where the name of the group is that on the host, which the container does not see."""
    files = {
        "proc/self/cgroup": "5:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123",
        f"sys/fs/cgroup/cpu/{seen}cpu.cfs_quota_us": "200000",
        f"sys/fs/cgroup/cpu/{seen}cpu.cfs_period_us": "100000",
    }
    assert usable_cores(tree(tmp_path, files)) == 2
    (tmp_path / f"sys/fs/cgroup/cpu/{seen}cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cores(tmp_path) == 16


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = psutil.virtual_memory()._replace(total=64 * GB, available=48 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found)


@pytest.mark.usefixtures("roomy")
def test_memory_is_that_of_the_machine_where_no_container_limits_it(tmp_path: Path) -> None:
    assert available_percent(tmp_path) == 75.0
    boundless = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "7"}
    assert available_percent(tree(tmp_path, boundless)) == 75.0


@pytest.mark.usefixtures("roomy")
@pytest.mark.parametrize(
    ("used", "statistics", "percent"),
    [
        (7 * GB, f"anon 5\ninactive_file {GB // 2}\nactive_file {GB // 2}", 25.0),  # files it can drop do not count
        (GB, "", 75.0),  # and the machine is fuller than this container
    ],
)
def test_of_machine_and_container_the_fuller_counts(tmp_path: Path, used: int, statistics: str, percent: float) -> None:
    files = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/memory.max": str(8 * GB),
        "sys/fs/cgroup/memory.current": str(used),
        "sys/fs/cgroup/memory.stat": statistics,
    }
    assert available_percent(tree(tmp_path, files)) == percent


@pytest.mark.usefixtures("roomy")
def test_memory_of_version_1_is_read_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/box",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(30 * GB),
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(4 * GB),
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(4 * GB),
        "sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file 7\ntotal_active_file {GB - 7}\nactive_file 7",
    }
    assert available_percent(tree(tmp_path, files)) == 25.0


def test_of_this_machine_there_is_something_to_say() -> None:
    assert usable_cores() >= 1
    assert 0 < available_percent() <= 100
