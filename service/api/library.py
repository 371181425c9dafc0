"""The store, asked from threads, so that a slow Redis holds no event loop up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Final, TypeVar

from service.errors import StoreUnavailable
from service.settings import Settings
from service.store import Store

_THREADS: Final = 8

Result = TypeVar("Result")


class Library:
    """What a worker knows of Redis: nothing until it asks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, "library")  # its own: a Redis that hangs must not stop /metrics

    async def ask(self, question: Callable[[Store], Result]) -> Result:
        """Raises StoreUnavailable when Redis does not answer, and what `question` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: question(self._store))

    @cached_property
    def _store(self) -> Store:
        if self._settings.redis_url is None:
            raise StoreUnavailable("this worker was started without a Redis URL")
        return Store.connect(self._settings.redis_url, self._settings.namespace)
