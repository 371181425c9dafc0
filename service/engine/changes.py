"""The catalog thread, as the event loop sees it: compiles filters and applies changes, one after the other.

Changes go first: however many filters wait, one that hides an item waits for the one that is being compiled at most.
"""

import asyncio
from collections.abc import Sequence

from service.catalog.records import ItemRecord
from service.errors import Draining
from service.frames import Condition
from service.one_thread import OneThread

from .batcher import Action, Batcher
from .live import LiveSearch


class Changes:
    """Every method waits for its turn, and returns when what it did counts for every query that comes."""

    def __init__(self, search: LiveSearch, batcher: Batcher) -> None:
        self._search = search
        self._batcher = batcher
        self._thread = OneThread("catalog")
        self._compiling = asyncio.Lock()  # of filters only one is in the thread's own queue
        self._closed = False
        search.newcomers.on_text = self._thread.begin

    @property
    def busy_s(self) -> float:
        """For how long the catalog thread has been at one filter, change or text; 0 where it waits for work."""
        return self._thread.busy_s

    async def compile(self, slot: int, *, conditions: Sequence[Condition], include_items: Sequence[str] | None) -> None:
        """Puts a filter into a slot; raises BadFilter, and Draining where the thread has ended."""
        async with self._compiling:
            if self._closed:
                raise Draining("the engine is stopping")
            await self._thread.do(self._search.compile, slot, conditions, include_items)

    async def apply(self, revision: int, records: Sequence[ItemRecord], codes: dict[str, list[int]]) -> list[str]:
        """Returns ids of added items that are not in the model yet."""
        return await self._thread.do(self._search.apply, revision, records, codes, self._between)

    async def propose(
        self, records: Sequence[ItemRecord], taken: Sequence[Sequence[int]]
    ) -> tuple[dict[str, list[int]], dict[str, str]]:
        """(codes by item id, none of them `taken`; reasons by the id of an item that can have none)"""
        return await self._thread.do(self._search.propose, records, taken)

    def after_all(self, action: Action) -> None:
        """Runs `action` on the search thread, once this one has done what it was asked for."""
        self._thread.after_all(self._between, action)

    def close(self) -> None:
        """Lets the thread end; what waits for it is dropped."""
        self._closed = True
        self._thread.close()

    def _between(self, action: Action) -> None:
        self._batcher.between(action).result()
