"""A thread that makes one call after the other, and for how long it has been at the present one."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

Result = TypeVar("Result")

LONGEST_STEP_S: Final = 120.0
"""Of a run, a filter or a change of the catalog, which take milliseconds, and seconds at worst: then a thread hangs."""


class OneThread:
    """Calls wait for their turn."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._began = math.inf  # monotonic seconds; inf: it waits for work

    @property
    def busy_s(self) -> float:
        """For how long it has been at one call, or at the step that `begin` began; 0 where it waits for work."""
        return max(0.0, time.monotonic() - self._began)

    async def do(self, call: Callable[..., Result], *args: object) -> Result:
        """What the call returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, call, *args)

    def begin(self) -> None:
        """Said on the thread, by a call of many steps none of which takes long."""
        self._began = time.monotonic()

    def after_all(self, call: Callable[..., object], *args: object) -> None:
        """Makes a call, which counts as no time of its own, once the thread has done what it was asked for before."""
        self._pool.submit(call, *args)

    def close(self) -> None:
        """Lets it end after the present call; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _timed(self, call: Callable[..., Result], *args: object) -> Result:
        self.begin()
        try:
            return call(*args)
        finally:
            self._began = math.inf
