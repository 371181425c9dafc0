"""Brings the changed catalog to one engine or reader, in order, and finds added items a place in its model."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from service.api.engine_link import Asked, EngineLost
from service.catalog.records import ItemRecord
from service.errors import ServiceError, StoreError
from service.frames import Applied, Apply, Place, Placed, Reply

from .backoff import Backoff
from .codes import Codes
from .engine import Engine

_CHUNK_RECORDS: Final = 2000
_CHUNK_BYTES: Final = 16 * 1024 * 1024  # a quarter of what a frame may hold

logger = logging.getLogger(__name__)


class Reached(NamedTuple):
    """A state of the changed catalog. Revisions begin anew with an era, when Redis has lost them."""

    revision: int = 0
    era: str = ""

    def obeys(self, other: "Reached") -> bool:
        return self.era == other.era and self.revision >= other.revision


class Feed:
    """One peer's queue. Of changes that wait, the newest of an item counts."""

    def __init__(
        self,
        peer: Engine,
        codes: Codes,
        on_progress: Callable[[], None],
        owed: Callable[[], Reached],
        *,
        places: bool,
    ) -> None:
        """`peer` is an engine or a reader. `owed` is what users have been told that this replica obeys; `places`: the
        peer proposes codes of items that have none; others wait for what engines propose."""
        self.peer = peer
        self.applied = Reached()  # what counts there, its added items placed or in `unplaced`
        self.unplaced: dict[str, str] = {}  # added item → why it cannot be recommended
        self.caught_up = asyncio.Event()  # once everything that was known at the start counts, and what is owed
        self._codes = codes
        self._on_progress = on_progress
        self._owed = owed
        self._places = places
        self._latest = Reached()
        self._told = Reached()  # what the peer knows
        self._pending: dict[str, ItemRecord] = {}
        self._homeless: dict[str, ItemRecord] = {}  # added items without a code
        self._work = asyncio.Event()
        self._backoff = Backoff(immediate=False)

    def put(self, reached: Reached, records: Iterable[ItemRecord]) -> None:
        """Queues a change: with these records the peer will have reached that."""
        self._pending.update((record.item_id, record) for record in records)
        self._latest = reached
        self._backoff = Backoff(immediate=False)
        self._work.set()

    async def run(self) -> None:
        """Until the peer has gone, which its own keeper learns too."""
        with suppress(EngineLost):
            while True:
                await self._apply_pending()
                await self._settle_homeless()
                self.applied = self._told
                if not self._work.is_set() or self.applied.obeys(self._owed()):
                    self.caught_up.set()
                self._on_progress()
                await self._wait()

    async def _wait(self) -> None:
        """Until there is a change, or another attempt to place what has no code is worth it."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(self._work.wait())]
        if self._homeless:
            waits.append(asyncio.create_task(self._codes.more()))
            if self._places:
                waits.append(asyncio.create_task(asyncio.sleep(self._backoff.next_s())))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _apply_pending(self) -> None:
        self._work.clear()
        pending, latest = self._pending, self._latest
        self._pending = {}
        if latest == self._told and not pending:
            return
        for item_id in pending:
            self._homeless.pop(item_id, None)
            self.unplaced.pop(item_id, None)
        parts = list(chunks(pending.values()))
        for place, chunk in enumerate(parts, start=1):
            added = [record.item_id for record in chunk if record.item is not None and not record.removed]
            reached = latest if place == len(parts) else self._told  # answers name what they obey wholly
            await self._apply(reached.revision, chunk, await self._find(added))
        self._told = latest

    async def _find(self, added: list[str]) -> dict[str, list[int]]:
        try:
            return await self._codes.find(self.peer.version, added)
        except StoreError as error:
            logger.warning("codes of added items could not be read: %s", error)
            return self._codes.known(self.peer.version, added)

    async def _apply(self, revision: int, records: list[ItemRecord], codes: dict[str, list[int]]) -> None:
        """Where the peer refuses, which is a defect, it is told half by half, so that one item costs no other."""
        reply = await self._request(Apply(0, revision, records, codes))
        if not isinstance(reply, Applied):
            await self._apply_halves(revision, records, codes)
            return
        missing = set(reply.missing)
        self._homeless.update((record.item_id, record) for record in records if record.item_id in missing)

    async def _apply_halves(self, revision: int, records: list[ItemRecord], codes: dict[str, list[int]]) -> None:
        if len(records) < 2:
            self.unplaced.update((record.item_id, "the model did not take its change") for record in records)
            return
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            ids = {record.item_id for record in half}
            await self._apply(revision, half, {item_id: code for item_id, code in codes.items() if item_id in ids})

    async def _settle_homeless(self) -> None:
        """Each once; what is left is tried again later. Who places nothing can do something only for known codes."""
        ids = self._homeless if self._places else self._codes.known(self.peer.version, self._homeless)
        for chunk in chunks([self._homeless[item_id] for item_id in ids]):
            try:
                codes = await self._codes_of(chunk)
            except StoreError as error:
                self.unplaced.update((record.item_id, str(error)) for record in chunk)
                continue
            await self._move_in([record for record in chunk if record.item_id in codes], codes)

    async def _codes_of(self, records: list[ItemRecord]) -> dict[str, list[int]]:
        ids = [record.item_id for record in records]
        if not self._places:
            return self._codes.known(self.peer.version, ids)
        codes = await self._codes.find(self.peer.version, ids)
        without = [record for record in records if record.item_id not in codes]
        return codes | (await self._propose(without) if without else {})

    async def _propose(self, records: list[ItemRecord]) -> dict[str, list[int]]:
        """An engine does not know the codes of items that it does not have, such as removed ones, until it is told."""
        codes, lost = await self._offer(records, [])
        if lost:
            codes |= (await self._offer(lost, await self._codes.taken(self.peer.version)))[0]
        return codes

    async def _offer(
        self, records: list[ItemRecord], taken: list[list[int]]
    ) -> tuple[dict[str, list[int]], list[ItemRecord]]:
        """(codes that count, items whose proposed code is another one's)"""
        reply = await self._request(Place(0, records, taken))
        if not isinstance(reply, Placed):
            return {}, []
        for item_id, reason in reply.refused.items():  # until the item changes
            self._homeless.pop(item_id, None)
            self.unplaced[item_id] = reason
        for item_id in reply.codes:
            self.unplaced[item_id] = "its code was taken by another item; the next is being tried"
        placed = await self._codes.place(self.peer.version, reply.codes)
        return placed, [one for one in records if one.item_id in reply.codes and one.item_id not in placed]

    async def _move_in(self, records: list[ItemRecord], codes: dict[str, list[int]]) -> None:
        if not records:
            return
        for record in records:
            self._homeless.pop(record.item_id, None)
            self.unplaced.pop(record.item_id, None)
        await self._apply(self._told.revision, records, {record.item_id: codes[record.item_id] for record in records})
        for record in records:
            if self._homeless.pop(record.item_id, None):
                self.unplaced[record.item_id] = "the model has no room for its code"

    async def _request(self, message: Asked) -> Reply | None:
        """None where the peer refuses, which must not hold up what comes next."""
        try:
            return await self.peer.request(message)
        except ServiceError as error:
            logger.error("model %s did not take a change of the catalog: %s", self.peer.version, error)
            return None


def chunks(records: Iterable[ItemRecord]) -> Iterator[list[ItemRecord]]:
    """Pieces that fit into one message, in order."""
    encoder = msgspec.msgpack.Encoder()
    chunk: list[ItemRecord] = []
    size_bytes = 0
    for record in records:
        record_bytes = len(encoder.encode(record))
        if chunk and (len(chunk) == _CHUNK_RECORDS or size_bytes + record_bytes > _CHUNK_BYTES):
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(record)
        size_bytes += record_bytes
    if chunk:
        yield chunk
