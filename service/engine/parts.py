"""A batch on several cores: each takes a part of the rows through the whole graph.

One operator after another on all cores would meet at the end of every one of some hundred small operators; whole parts
meet once.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

import numpy as np

from models.graph import SearchRow

T = TypeVar("T")
LEAST_ROWS: Final = 2
"""Rows below which a part is not worth the waking of a thread."""
MOST_ROWS: Final = 16
"""Rows above which a part gains nothing by being larger, but pads more short histories to the longest."""
_DECODING: Final = 16
"""History items whose encoding costs about as much as writing a code, in the network where encoding costs most."""


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
        """Runs all of them, some on this thread; raises what one of them raised, after all have ended."""
        futures: list[Future[T]] = [Future() for _ in calls]
        for call, future in list(zip(calls, futures, strict=True))[1:]:
            self._calls.put((call, future))
        _settle(calls[0], futures[0])
        self._help()
        for future in futures:
            future.exception()  # waits: what is read by the calls must stay as it is until the last has ended
        return [future.result() for future in futures]

    def elsewhere(self, call: Callable[[], T]) -> T:
        """Runs it on one of the threads, and never on this one; raises what it raises."""
        future: Future[T] = Future()
        self._calls.put((call, future))
        return future.result()

    def _help(self) -> None:
        """Takes what no other thread has begun."""
        while True:
            try:
                task = self._calls.get_nowait()
            except Empty:
                return
            if task is not None:
                _settle(*task)


def split_by_length(rows: Sequence[SearchRow], cores: int) -> list[list[int]]:
    """Places of `rows` in parts of about equal cost, histories of like lengths together, the longest first."""
    count = max(1, min(cores, len(rows) // LEAST_ROWS), len(rows) // MOST_ROWS)
    lengths = np.array([len(row.history) for row in rows])
    order = np.argsort(-lengths, kind="stable")
    cost = lengths[order] + _DECODING
    part = ((np.cumsum(cost) - cost / 2) * count / cost.sum()).astype(np.int64)
    return [order[part == number].tolist() for number in range(count) if (part == number).any()]


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
