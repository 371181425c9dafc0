"""Memory of a service on this machine over time: everything below the process that listens on its port."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import psutil

_SAMPLES: Final = 360


@dataclass
class MemoryWatch:
    """Samples the proportional set size (shared pages count once) of a tree of processes; no process, no samples."""

    root: int | None  # process id
    every_s: float
    samples: list[tuple[float, int]] = field(default_factory=list)  # (seconds after the first, bytes)
    first: dict[int, int] = field(default_factory=dict)  # process id → bytes
    last: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, address: str, seconds: float) -> "MemoryWatch":
        """Of whoever listens at `address`, for a test that lasts so long."""
        return cls(_listener(httpx.URL(address).port or 80), max(0.5, seconds / _SAMPLES))

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Until the block ends."""
        task = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def growth(self) -> float | None:
        """Median of the last quarter over that of the first; None below eight samples."""
        quarter = len(self.samples) // 4
        if quarter < 2:
            return None
        return round(_median(self.samples[-quarter:]) / _median(self.samples[:quarter]), 4)

    def as_json(self) -> dict[str, Any]:
        """All samples of the whole tree; of each process its first and last size, null where it was not there."""
        return {
            "process": self.root,
            "mb": [[round(at_s, 1), _mb(size)] for at_s, size in self.samples],
            "processes": [
                {"process": pid, "name": name, "mb": [_mb(self.first.get(pid)), _mb(self.last.get(pid))]}
                for pid, name in self.names.items()
            ],
        }

    async def _sample(self) -> None:
        begun = time.monotonic()
        while self.root is not None and psutil.pid_exists(self.root):
            if not (sizes := await asyncio.to_thread(tree_sizes, self.root)):
                return
            self.samples.append((time.monotonic() - begun, sum(sizes.values())))
            self.first, self.last = self.first or sizes, sizes
            self.names |= {pid: await asyncio.to_thread(_name, pid) for pid in sizes if pid not in self.names}
            await asyncio.sleep(self.every_s)


def tree_bytes(process_id: int) -> int:
    """Proportional set size of a process and all its children: shared pages count once."""
    return sum(tree_sizes(process_id).values())


def tree_sizes(process_id: int) -> dict[int, int]:
    """The same of each of them, by process id; empty when the process has gone."""
    sizes = {}
    with suppress(psutil.NoSuchProcess):
        for process in (parent := psutil.Process(process_id), *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                sizes[process.pid] = process.memory_full_info().pss
    return sizes


def _name(process_id: int) -> str:
    """What it runs: the module, where it is Python's, without options."""
    try:
        words = psutil.Process(process_id).cmdline()
    except psutil.NoSuchProcess:
        return "ended"
    return words[words.index("-m") + 1] if "-m" in words[:-1] else " ".join(words[:1])


def _mb(size: int | None) -> float | None:
    return None if size is None else round(size / 1e6, 1)


def _listener(port: int) -> int | None:
    """The topmost of the processes that listen there; None where none of this user's does."""
    found = {
        process.pid: process
        for process in psutil.process_iter()
        if any(link.status == psutil.CONN_LISTEN and link.laddr.port == port for link in _links(process))
    }
    tops = [pid for pid, process in found.items() if not {parent.pid for parent in process.parents()} & found.keys()]
    return tops[0] if tops else None


def _links(process: psutil.Process) -> Sequence[Any]:
    try:
        return process.net_connections("tcp")
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return []


def _median(samples: Sequence[tuple[float, int]]) -> float:
    return statistics.median(size for _, size in samples)
