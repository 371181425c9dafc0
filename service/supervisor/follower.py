"""Follows Redis in a thread, and brings what it sees to the event loop."""

import asyncio
import logging
import threading
from collections.abc import Callable

from service.store import Sighting, Store, StoreDown

from .aside import aside

logger = logging.getLogger(__name__)


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
        """A fault that nobody foresaw begins it anew: a replica that no longer follows would look healthy."""
        while not self._stop.is_set():
            try:
                for sighting in self._store.watch(self._stop, self._poll_s):
                    self._tell(sighting)
            except Exception as error:
                logger.exception("a fault while following Redis")
                self._tell(StoreDown(f"Redis cannot be followed: {error!r}"))
                self._stop.wait(self._poll_s)

    def _tell(self, sighting: Sighting) -> None:
        if not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._handle, sighting)
