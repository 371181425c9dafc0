"""Memory of a service on this machine over time: everything below the process that listens on its port."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
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
        return {"process": self.root, "mb": [[round(at_s, 1), round(size / 1e6, 1)] for at_s, size in self.samples]}

    async def _sample(self) -> None:
        begun = time.monotonic()
        while self.root is not None and psutil.pid_exists(self.root):
            size = await asyncio.to_thread(tree_bytes, self.root)
            self.samples.append((time.monotonic() - begun, size))
            await asyncio.sleep(self.every_s)


def tree_bytes(process_id: int) -> int:
    """Proportional set size of a process and all its children: shared pages count once."""
    total = 0
    for process in (parent := psutil.Process(process_id), *parent.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


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
