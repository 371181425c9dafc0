"""Follows Redis in a thread, and brings what it sees to the event loop."""

import asyncio
import threading
from collections.abc import Callable

from service.store import Sighting, Store

from .aside import aside


class Follower:
    """Calls `handle` on the event loop with every sighting, in order."""

    def __init__(self, store: Store, poll_s: float, handle: Callable[[Sighting], None]) -> None:
        self._store = store
        self._poll_s = poll_s
        self._handle = handle
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        # A daemon: a Redis that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self, timeout_s: float) -> None:
        self._stop.set()
        await aside(self._thread.join, timeout_s)

    def _follow(self) -> None:
        for sighting in self._store.watch(self._stop, self._poll_s):
            if self._stop.is_set():
                return
            self._loop.call_soon_threadsafe(self._handle, sighting)
