"""The engine's socket: any number of connections, any number of queries in flight on each, one reply to each query."""

import asyncio
import math
import time
from collections.abc import Awaitable
from functools import partial

import msgspec

from service import metrics
from service.catalog.filters import filter_key
from service.connection import Connection
from service.errors import DeadlineExceeded, EngineFailed
from service.frames import (
    Answer,
    Applied,
    Apply,
    EngineInfo,
    Failure,
    Ping,
    Place,
    Placed,
    Query,
    Reply,
    Request,
    failure,
)
from service.garbage import spare_the_old
from service.lifetime import BACKLOG
from service.one_thread import LONGEST_STEP_S

from .batcher import Batcher
from .catalog import NO_FILTER, Catalog, FoundRow, Ticket
from .changes import Changes
from .slots import Slot, Slots

_CANCELLED = "cancelled"  # code of a failure that nobody reads: who asked has gone
_EARLY_S = 0.01  # by how much a worker's timer may be ahead of a deadline
_SETTLE_S = 0.05


class Server:
    """Answers queries of one artifact, and follows the catalog, until `drain`."""

    def __init__(self, catalog: Catalog, batcher: Batcher, slots: Slots, changes: Changes, info: EngineInfo) -> None:
        self._catalog = catalog
        self._batcher = batcher
        self._slots = slots
        self._changes = changes
        self._info = info
        self._connections: set[Connection] = set()

    async def listen(self, path: str) -> None:
        """Accepts connections on the Unix socket `path` from now on."""
        spare_the_old()
        loop = asyncio.get_running_loop()
        connection = partial(Connection, self._connections, self._receive, _count)
        self._server = await loop.create_unix_server(connection, path, backlog=BACKLOG)

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting connections, answers what is in flight, flushes, closes; gives up after `timeout_s`."""
        self._server.close()
        give_up = time.monotonic() + timeout_s
        await asyncio.sleep(_SETTLE_S)  # queries that are in the sockets' buffers already
        while self.in_flight and time.monotonic() < give_up:
            await asyncio.sleep(_SETTLE_S)
        self._batcher.close()
        await asyncio.gather(*(connection.flush() for connection in [*self._connections]))

    @property
    def in_flight(self) -> int:
        """Messages accepted and not answered yet."""
        return sum(len(connection.in_flight) for connection in self._connections)

    def _receive(self, connection: Connection, message: Request) -> None:
        match message:
            case Query():
                self._ask(connection, message)
            case Ping():
                self._answer_ping(connection, message)
            case Apply():
                self._start(connection, message, self._apply(message))
            case Place():
                self._start(connection, message, self._place(message))
            case _:
                connection.send(Failure(message.query_id, EngineFailed.code, "an engine does not answer that"))

    def _answer_ping(self, connection: Connection, ping: Ping) -> None:
        """At once; where a thread seems to hang, when it goes on, for which the supervisor does not wait long."""
        answer = partial(connection.send, msgspec.structs.replace(self._info, query_id=ping.query_id))
        if max(self._batcher.busy_s, self._changes.busy_s) < LONGEST_STEP_S:
            answer()
        else:
            self._changes.after_all(partial(asyncio.get_running_loop().call_soon_threadsafe, answer))

    def _ask(self, connection: Connection, query: Query) -> None:
        """Answers at once where no search is needed or possible, else hands the query to the batcher."""
        slot: Slot | None = None
        try:
            self._batcher.admit(query.deadline)
            if query.filter or query.include_items is not None:
                key = filter_key(query.filter, query.include_items, self._catalog.fields)
                slot = self._slots.pin(key)
                if slot is None:
                    self._catalog.check(query.filter)  # before a filter that cannot be drives another from its slot
                    self._start(connection, query, self._compile_and_ask(connection, query, key))
                    return
            self._search(connection, query, slot)
        except Exception as error:
            connection.send(failure(query.query_id, error))

    def _search(self, connection: Connection, query: Query, slot: Slot | None) -> None:
        """Sends the answer, or has it sent; the slot is let go of when no search needs it any more."""
        let_go = partial(self._slots.unpin, slot) if slot else _nothing
        try:
            ticket = self._catalog.ticket(query, slot.number if slot else NO_FILTER)
            if ticket.prepared.request.popular:
                answer = self._catalog.popular(ticket)
                answer.waiting = self._batcher.waiting
                connection.send(answer)
                let_go()
                return
            row, shape = ticket.prepared.row, ticket.prepared.shape
            refresh = partial(self._catalog.refresh, ticket)
            future = self._batcher.submit(row, shape, query.deadline, refresh, let_go)
        except BaseException:
            let_go()
            raise
        connection.in_flight[query.query_id] = future
        future.add_done_callback(partial(self._settle, connection, ticket))

    async def _compile_and_ask(self, connection: Connection, query: Query, key: bytes) -> Failure | None:
        """As `_search`, when the filter has its slot; the deadline counts meanwhile."""
        compile_into = partial(self._changes.compile, conditions=query.filter, include_items=query.include_items)
        try:
            async with asyncio.timeout(None if math.isinf(query.deadline) else query.deadline - time.monotonic()):
                slot = await self._slots.acquire(key, compile_into)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the filter was compiled") from None
        self._search(connection, query, slot)
        return None

    def _settle(self, connection: Connection, ticket: Ticket, future: "asyncio.Future[FoundRow]") -> None:
        connection.in_flight.pop(ticket.query.query_id, None)
        connection.send(self._reply(ticket, future))

    def _reply(self, ticket: Ticket, future: "asyncio.Future[FoundRow]") -> Answer | Failure:
        query_id = ticket.query.query_id
        if future.cancelled():
            return _cancelled(ticket.query)
        try:
            answer = self._catalog.answer(ticket, future.result())
        except Exception as error:
            return failure(query_id, error)
        answer.waiting = self._batcher.waiting
        metrics.stage_duration("queue").observe(answer.queue_s)
        return answer

    async def _apply(self, message: Apply) -> Applied:
        missing = await self._changes.apply(message.revision, message.records, message.codes)
        return Applied(message.query_id, message.revision, missing)

    async def _place(self, message: Place) -> Placed:
        codes, refused = await self._changes.propose(message.records, message.taken)
        return Placed(message.query_id, codes, refused)

    def _start(self, connection: Connection, message: Query | Apply | Place, work: Awaitable[Reply | None]) -> None:
        """Lets something that takes its time reply later; None: something else will."""
        task = asyncio.ensure_future(work)
        connection.in_flight[message.query_id] = task
        task.add_done_callback(partial(_finish, connection, message))


def _finish(connection: Connection, message: Query | Apply | Place, task: "asyncio.Future[Reply | None]") -> None:
    query_id = message.query_id
    if connection.in_flight.get(query_id) is task:
        del connection.in_flight[query_id]
    if task.cancelled():
        connection.send(_cancelled(message))
    elif (error := task.exception()) is not None:
        connection.send(failure(query_id, error))
    elif (reply := task.result()) is not None:
        connection.send(reply)


def _nothing() -> None:
    pass


def _cancelled(message: Query | Apply | Place) -> Failure:
    """A worker cancels at the deadline, and before it where its client has gone, which is nobody's fault."""
    late = isinstance(message, Query) and message.deadline <= time.monotonic() + _EARLY_S
    return Failure(message.query_id, DeadlineExceeded.code if late else _CANCELLED, "the query was cancelled")


def _count(reply: Reply) -> None:
    if isinstance(reply, Failure):
        metrics.REJECTED.labels(reply.code).inc()
    elif isinstance(reply, Answer) and reply.exhausted:
        metrics.EXHAUSTED.inc()
