"""Tasks whose end nobody awaits: they are remembered until then, and a fault in one is told."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

_AFTER_FAULT_S: Final = 1.0

logger = logging.getLogger(__name__)


class Tasks:
    """Runs coroutines on the side."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    async def all_ended(self) -> None:
        """Returns when none runs any more."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        tell_fault(task)


async def forever(call: Callable[[], Awaitable[None]]) -> None:
    """Again and again; what nobody foresaw is told, and does not end it."""
    while True:
        try:
            await call()
        except Exception as error:
            logger.error("a fault in the supervisor", exc_info=error)
            await asyncio.sleep(_AFTER_FAULT_S)


def tell_fault(task: "asyncio.Task[None]") -> None:
    """Logs what nobody foresaw."""
    if not task.cancelled() and (error := task.exception()):
        logger.error("a fault in the supervisor", exc_info=error)
