"""The engine's socket: any number of connections, any number of queries in flight on each, one reply to each query."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial

import msgspec

from service import metrics
from service.errors import DeadlineExceeded, EngineFailed, ServiceError
from service.frames import Answer, Cancel, EngineInfo, Failure, Ping, Query, Reply, Request, pack, read_frame

from .batcher import Batcher
from .catalog import Catalog, Place
from .catalog import Request as CatalogRequest

_SETTLE_S = 0.05
_FLUSH_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Connection:
    """One HTTP worker's connection and what it waits for."""

    writer: asyncio.StreamWriter
    encoder: msgspec.msgpack.Encoder = field(default_factory=msgspec.msgpack.Encoder)
    in_flight: "dict[int, asyncio.Future[Place]]" = field(default_factory=dict)

    def send(self, reply: Reply) -> None:
        if self.writer.is_closing():
            return
        if isinstance(reply, Failure):
            metrics.REJECTED.labels(reply.code).inc()
        elif isinstance(reply, Answer) and reply.exhausted:
            metrics.EXHAUSTED.inc()
        self.writer.write(pack(reply, self.encoder))


class Server:
    """Answers queries of one artifact until `drain`."""

    def __init__(self, catalog: Catalog, batcher: Batcher, info: EngineInfo) -> None:
        self._catalog = catalog
        self._batcher = batcher
        self._info = info
        self._connections: set[Connection] = set()
        self._decoder = msgspec.msgpack.Decoder(Request)

    async def listen(self, path: str) -> None:
        """Accepts connections on the Unix socket `path` from now on."""
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def drain(self, timeout_s: float) -> None:
        """Stops accepting connections, answers what is in flight, flushes, closes; gives up after `timeout_s`."""
        self._server.close()
        give_up = time.monotonic() + timeout_s
        await asyncio.sleep(_SETTLE_S)  # queries that are in the sockets' buffers already
        while self.in_flight and time.monotonic() < give_up:
            await asyncio.sleep(_SETTLE_S)
        self._batcher.close()
        await asyncio.gather(*(_flush(connection) for connection in self._connections))

    @property
    def connections(self) -> int:
        """Peers connected now."""
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        """Queries accepted and not answered yet."""
        return sum(len(connection.in_flight) for connection in self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads queries until the peer goes, then drops what it no longer waits for."""
        connection = Connection(writer)
        self._connections.add(connection)
        try:
            while (body := await read_frame(reader)) is not None:
                self._receive(connection, self._decoder.decode(body))
                await writer.drain()  # a peer that does not read its answers gets no more queries in
        except (ValueError, msgspec.MsgspecError, asyncio.IncompleteReadError, ConnectionError) as error:
            logger.warning("a connection broke off: %s", error)
        finally:
            self._connections.discard(connection)
            for future in list(connection.in_flight.values()):
                future.cancel()
            writer.close()

    def _receive(self, connection: Connection, message: Request) -> None:
        match message:
            case Query():
                self._ask(connection, message)
            case Cancel(query_id):
                if future := connection.in_flight.get(query_id):
                    future.cancel()
            case Ping(query_id):
                connection.send(msgspec.structs.replace(self._info, query_id=query_id))

    def _ask(self, connection: Connection, query: Query) -> None:
        """Answers at once where no search is needed or possible, else hands the query to the batcher."""
        if query.query_id in connection.in_flight:
            raise ValueError(f"query id {query.query_id} is in flight already")
        try:
            self._batcher.admit(query.deadline)
            request = self._catalog.read(query)
            if request.popular:
                connection.send(self._catalog.popular(request))
                return
            row, shape = self._catalog.search_row(request)
            future = self._batcher.submit(row, shape, query.deadline)
        except Exception as error:
            connection.send(_failure(query, error))
            return
        connection.in_flight[query.query_id] = future
        future.add_done_callback(partial(self._settle, connection, request))

    def _settle(self, connection: Connection, request: CatalogRequest, future: "asyncio.Future[Place]") -> None:
        connection.in_flight.pop(request.query.query_id, None)
        connection.send(self._reply(request, future))

    def _reply(self, request: CatalogRequest, future: "asyncio.Future[Place]") -> Answer | Failure:
        if future.cancelled():
            return _failure(request.query, DeadlineExceeded("the query was cancelled"))
        try:
            answer = self._catalog.answer(request, future.result())
        except Exception as error:
            return _failure(request.query, error)
        metrics.STAGE_DURATION.labels("queue").observe(answer.queue_s)
        return answer


def _failure(query: Query, error: Exception) -> Failure:
    """What the client is told; an error nobody foresaw is logged and told as `engine_failed`."""
    if isinstance(error, ServiceError):
        return Failure(query.query_id, error.code, str(error))
    logger.error("query %d failed", query.query_id, exc_info=error)
    return Failure(query.query_id, EngineFailed.code, "the engine failed on this query")


async def _flush(connection: Connection) -> None:
    """Closing flushes what was written; a peer that does not read is not waited for long."""
    connection.writer.close()
    try:
        async with asyncio.timeout(_FLUSH_S):
            await connection.writer.wait_closed()
    except (TimeoutError, ConnectionError):
        logger.warning("a connection closed before all its answers were read")
