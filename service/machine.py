"""What of the machine this process may use: cores and memory, the limits of its container included.

A container's limits are those of its control groups (Linux, version 2; of version 1 the usual mounts). The process may
be in a group within groups, and the tightest of them counts.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

_ROOT: Final = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Cores worth a thread each: those this process may run on, threads that share one counted once, and no more than
    its quota of processor time pays for."""
    physical = len({_siblings(root, cpu) for cpu in os.sched_getaffinity(0)})
    return max(1, min([physical, *(int(quota) for quota in _quotas(root))]))


def available_percent(root: Path = _ROOT) -> float:
    """Share of the memory that is available: of the machine's, or of the container's where that is less."""
    machine = psutil.virtual_memory()
    shares = [available / total for total, available in _group_memory(root, machine.total)]
    return 100.0 * min([machine.available / machine.total, *shares])


def _siblings(root: Path, cpu: int) -> str:
    """Where the kernel does not say, every thread is a core."""
    return _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu)


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each group grants."""
    for group in _groups(root, "cpu"):
        version2 = (_text(group / "cpu.max") or "max").split()
        quota, period = version2[0], version2[1] if len(version2) > 1 else "100000"
        if quota == "max":
            quota, period = _text(group / "cpu.cfs_quota_us") or "-1", _text(group / "cpu.cfs_period_us") or "100000"
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _group_memory(root: Path, machine: int) -> Iterator[tuple[int, int]]:
    """(limit, what of it is available) of each group with a limit, in bytes.

    Pages of files that it can drop count as available, as they do for the machine.
    """
    names = (("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))
    for group in _groups(root, "memory"):
        for limit, usage, prefix in names:
            most, used = _number(group / limit), _number(group / usage)
            if most and used is not None and most < machine:
                droppable = {f"{prefix}{kind}_file" for kind in ("active", "inactive")}
                kept = max(0, used - _statistics(group / "memory.stat", droppable))
                yield most, max(0, most - kept)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's group and of all around it, as far as this process can see them."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, name = line.split(":", 2)
        if number == "0":
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        inner = top / name.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder == top or top in folder.parents)


def _statistics(path: Path, names: set[str]) -> int:
    """Their sum."""
    rows = (line.split() for line in (_text(path) or "").splitlines())
    return sum(int(value) for name, value in rows if name in names)


def _number(path: Path) -> int | None:
    text = _text(path) or ""
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str | None:
    """Stripped; None where it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
