"""Codes of items that were added live: Redis decides them, once for all replicas; here is what it decided."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from service.errors import StoreError

from .aside import aside

Code = tuple[int, ...]


logger = logging.getLogger(__name__)


class Placements(Protocol):
    """The part of the store that decides; its methods block and may raise StoreError."""

    def placements(self, version: str, item_ids: Iterable[str] | None = None) -> dict[str, Code]:
        """Codes of these items in a version, as far as they have one."""

    def place(self, version: str, codes: Mapping[str, Code]) -> dict[str, Code]:
        """Proposes codes; the answer holds what counts. An item whose code is another one's is absent."""


class Codes:
    """Remembered by version, so that an engine's successor needs no Redis."""

    def __init__(self, store: Placements) -> None:
        self._store = store
        self._known: dict[str, dict[str, Code]] = {}
        self._grown = asyncio.Event()
        self.on_growth: Callable[[], None] = lambda: None

    def all_known(self) -> dict[str, dict[str, Code]]:
        """A copy of everything, by version."""
        return {version: dict(codes) for version, codes in self._known.items()}

    def recall(self, codes: Mapping[str, Mapping[str, Code]]) -> None:
        """What Redis had decided before this process began."""
        for version, known in codes.items():
            self._learn(version, known)

    def known(self, version: str, ids: Iterable[str]) -> dict[str, list[int]]:
        """As far as Redis has been asked."""
        codes = self._known.get(version, {})
        return {item_id: list(codes[item_id]) for item_id in ids if item_id in codes}

    async def find(self, version: str, ids: list[str]) -> dict[str, list[int]]:
        """Asks Redis for what is not known. Raises StoreError."""
        unknown = [item_id for item_id in ids if item_id not in self._known.get(version, {})]
        if unknown:
            self._learn(version, await aside(self._store.placements, version, unknown))
        return self.known(version, ids)

    async def place(self, version: str, proposals: Mapping[str, list[int]]) -> dict[str, list[int]]:
        """What counts of the proposals, or instead of them. Raises StoreError."""
        wishes = {item_id: tuple(code) for item_id, code in proposals.items()}
        self._learn(version, await aside(self._store.place, version, wishes))
        return self.known(version, proposals)

    async def taken(self, version: str) -> list[list[int]]:
        """Every code that was ever given in a version, also to items that were removed. Raises StoreError."""
        return [list(code) for code in (await aside(self._store.placements, version)).values()]

    def forget(self, version: str | None = None) -> None:
        """Nothing of this version runs here, and it may be deleted and published anew; None: of all versions."""
        if version is None:
            self._known.clear()
        else:
            self._known.pop(version, None)

    async def renew(self, ids: Collection[str]) -> None:
        """Redis has lost what it decided: it is offered again for these items, and what counts then is remembered."""
        before = self.all_known()
        self.forget()
        for version, known in before.items():
            offered = {item_id: code for item_id, code in known.items() if item_id in ids}
            try:
                self._learn(version, await aside(self._store.place, version, offered) if offered else {})
            except StoreError as error:
                logger.warning("codes of added items in version %s could not be put back: %s", version, error)

    async def more(self) -> None:
        """Returns when a code has become known."""
        await self._grown.wait()

    def _learn(self, version: str, codes: Mapping[str, Code]) -> None:
        if codes:
            self._known.setdefault(version, {}).update(codes)
            self._grown.set()
            self._grown = asyncio.Event()
            self.on_growth()
