"""A batch on several cores: each takes a part of the rows through the whole graph.

One operator after another on all cores would meet at the end of every one of some hundred small operators; whole parts
meet once.
"""

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

from models.graph import SearchRow

T = TypeVar("T")
LEAST_ROWS: Final = 2
"""Rows below which a part is not worth the waking of a thread."""


class PartThreads(Generic[T]):
    """Threads that run calls at the priority of whoever makes them; they end with this object.

    They are daemons, so that a call that hangs in its runtime cannot keep the process from ending.
    """

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], T], Future[T]] | None] = SimpleQueue()
        for number in range(count):
            threading.Thread(target=_work, args=(self._calls,), name=f"part-{number}", daemon=True).start()
        weakref.finalize(self, _end, self._calls, count)

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Runs all of them, the first on this thread; raises what one of them raised after all have ended."""
        futures: list[Future[T]] = [Future() for _ in calls]
        for call, future in list(zip(calls, futures, strict=True))[1:]:
            self._calls.put((call, future))
        _settle(calls[0], futures[0])
        for future in futures:
            future.exception()  # waits: what is read by the calls must stay as it is until the last has ended
        return [future.result() for future in futures]


def split_by_length(rows: Sequence[SearchRow], most: int) -> list[list[int]]:
    """Places of `rows` in at most `most` parts of equal size, histories of like lengths together."""
    parts = max(1, min(most, len(rows) // LEAST_ROWS))
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].history))
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    return [order[first:last] for first, last in pairwise(bounds)]


def physical_cores() -> int:
    """Cores this process may use; threads that share one count once. Where the kernel does not say, all count."""
    usable = os.sched_getaffinity(0)
    return len({_siblings(cpu) for cpu in usable})


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)


def _work(calls: "SimpleQueue[tuple[Callable[[], T], Future[T]] | None]") -> None:
    while (task := calls.get()) is not None:
        _settle(*task)
        del task  # or its rows would live until the next one


def _settle(call: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _end(calls: "SimpleQueue[tuple[Callable[[], T], Future[T]] | None]", count: int) -> None:
    for _ in range(count):
        calls.put(None)
