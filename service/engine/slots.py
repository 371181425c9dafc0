"""Which filter is in which slot: compiled once for each distinct filter, kept while there is room.

Everything here belongs to the event loop; filters are compiled on the catalog thread. A query pins its slot until its
search has run, and a pinned slot is never given away. While filters wait for slots that are all pinned, as many slots
are retired: nobody pins them any more, so that filters that are always in use leave room for others.

How many queries wait for their filters is bounded: else a burst of filters would hold all that workers may have in
flight, and queries without a filter would be refused with them.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from service import metrics
from service.errors import Overloaded


@dataclass(eq=False)
class Slot:
    """A slot with a filter in it, or on its way there while `ready` is not done."""

    number: int
    key: bytes
    ready: "asyncio.Future[None]"
    pins: int = 0

    @property
    def filled(self) -> bool:
        """Whether its filter was compiled, and not in vain."""
        return self.ready.done() and not self.ready.cancelled() and self.ready.exception() is None


class Slots:
    """Slots 1 … F - 1; slot 0 is for queries without a filter and needs no pin. At most `queue_limit` queries wait."""

    def __init__(self, count: int, queue_limit: int) -> None:
        self._queue_limit = queue_limit
        self._queue_depth = 0
        self._slots: OrderedDict[bytes, Slot] = OrderedDict()  # last used last
        self._free = list(range(count - 1, 0, -1))
        self._line: deque[asyncio.Future[None]] = deque()
        self._waiting: Counter[bytes] = Counter()  # filters without a slot
        self._retired: set[Slot] = set()

    def pin(self, key: bytes) -> Slot | None:
        """The slot of a filter that is compiled, pinned; None: `acquire` it."""
        slot = self._slots.get(key)
        if slot is None or not slot.filled:
            return None
        slot.pins += 1
        self._slots.move_to_end(key)
        return slot

    async def acquire(self, key: bytes, compile_into: Callable[[int], Awaitable[None]]) -> Slot:
        """The slot of a filter, pinned; compiles the filter where nobody has.

        Waits while every slot is pinned. Raises Overloaded where too many wait already, or what
        `compile_into(slot number)` raises.
        """
        with self._place_in_queue():
            slot = await self._slot(key, compile_into)
            slot.pins += 1
            try:
                await asyncio.shield(slot.ready)
            except BaseException:
                self.unpin(slot)
                raise
            return slot

    def unpin(self, slot: Slot) -> None:
        slot.pins -= 1
        if not slot.pins:
            if self._slots.get(slot.key) is not slot:  # retired, or its filter could not be compiled
                self._retired.discard(slot)
                self._free.append(slot.number)
            self._wake()

    @contextmanager
    def _place_in_queue(self) -> Iterator[None]:
        if self._queue_depth >= self._queue_limit:
            raise Overloaded(f"{self._queue_limit} queries are waiting for their filters already")
        self._queue_depth += 1
        metrics.FILTER_QUEUE_DEPTH.set(self._queue_depth)
        try:
            yield
        finally:
            self._queue_depth -= 1
            metrics.FILTER_QUEUE_DEPTH.set(self._queue_depth)

    async def _slot(self, key: bytes, compile_into: Callable[[int], Awaitable[None]]) -> Slot:
        queued = False
        while True:
            slot = self._slots.get(key)
            if slot is None and (queued or not self._waiting) and (number := self._vacant()) is not None:
                slot = self._compile(number, key, compile_into)
            if slot is not None:
                self._slots.move_to_end(key)
                if queued:
                    self._wake()  # whoever comes next may want the same filter, or have another vacancy
                return slot
            await self._wait_for(key, first=queued)
            queued = True

    def _vacant(self) -> int | None:
        """A free slot, or that of the filter that was not used for the longest time."""
        if self._free:
            return self._free.pop()
        for key, slot in self._slots.items():
            if not slot.pins:
                del self._slots[key]
                return slot.number
        return None

    def _compile(self, number: int, key: bytes, compile_into: Callable[[int], Awaitable[None]]) -> Slot:
        """Pinned by its compilation."""
        slot = Slot(number, key, asyncio.ensure_future(compile_into(number)), pins=1)
        self._slots[key] = slot
        metrics.FILTER_SLOTS.set(len(self._slots))
        slot.ready.add_done_callback(partial(self._compiled, slot))
        return slot

    def _compiled(self, slot: Slot, ready: "asyncio.Future[None]") -> None:
        if ready.cancelled() or ready.exception() is not None:
            del self._slots[slot.key]
            metrics.FILTER_SLOTS.set(len(self._slots))
        self._retire()
        self.unpin(slot)

    async def _wait_for(self, key: bytes, *, first: bool) -> None:
        self._waiting[key] += 1
        self._retire()
        try:
            await self._turn(first=first)
        finally:
            self._waiting -= Counter([key])

    def _retire(self) -> None:
        """The slot unused for longest, unless there is one on its way already for every filter that waits."""
        if len(self._waiting) > len(self._retired):
            slot = next((slot for slot in self._slots.values() if slot.filled and slot.pins), None)
            if slot is not None:
                del self._slots[slot.key]
                self._retired.add(slot)

    async def _turn(self, *, first: bool) -> None:
        """Until a slot may be vacant; who was woken in vain stays first."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._line.appendleft if first else self._line.append)(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                self._wake()  # another one may have what this one cannot use any more
            elif waiter in self._line:
                self._line.remove(waiter)
            raise

    def _wake(self) -> None:
        while self._line:
            waiter = self._line.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
