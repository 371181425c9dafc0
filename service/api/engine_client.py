"""A worker's side of an engine's socket, and which engine queries go to.

An engine may die at any moment. A query that was in flight on it goes to its successor once, as it was; then once more,
alone in its batch; then it fails, so that one poisoned query cannot take engine after engine.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from service import metrics
from service.errors import DeadlineExceeded, Draining, EngineCrashed, NotReady, Overloaded, from_failure
from service.frames import Answer, Cancel, EngineInfo, Failure, Query, Reply, pack, read_frame

from .control import Route, Routes, Status

_READ_BUFFER_BYTES: Final = 1 << 20
_ALONE: Final = 3  # the attempt that runs in a batch of its own, and the last

logger = logging.getLogger(__name__)


class EngineLost(Exception):  # noqa: N818 - never leaves this module
    """The engine ended, or would take no more queries, before it answered."""


@dataclass(frozen=True)
class Served:
    """An answer and the engine that gave it."""

    answer: Answer
    info: EngineInfo


class EngineClient:
    """One connection to one engine; any number of queries in flight."""

    def __init__(self, info: EngineInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.info = info
        self._gone = False
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, route: Route) -> "EngineClient":
        """Raises OSError when no engine listens there."""
        return cls(route.info, *await asyncio.open_unix_connection(route.socket, limit=_READ_BUFFER_BYTES))

    @property
    def gone(self) -> bool:
        """Whether it takes no more queries; a write that failed closes the connection before the reader notices."""
        return self._gone or self._writer.is_closing()

    async def ask(self, query: Query) -> Answer:
        """Raises EngineLost, or the ServiceError that the engine's `Failure` stands for.

        The frame is written before anything is awaited: who chose this engine a moment ago still means it. Cancelling
        the call cancels the query in the engine.
        """
        if self.gone:
            raise EngineLost
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[query.query_id] = future
        try:
            self._writer.write(pack(query, self._encoder))
            return await future
        finally:
            if self._waiting.pop(query.query_id, None) and not self._writer.is_closing():
                self._writer.write(pack(Cancel(query.query_id), self._encoder))
            self._close_when_idle()

    def retire(self) -> None:
        """Takes no more queries, and closes as soon as those in flight are answered."""
        self._gone = True
        self._close_when_idle()

    async def close(self) -> None:
        """Closes at once; queries in flight raise EngineLost."""
        self._reading.cancel()
        await asyncio.gather(self._reading, self._writer.wait_closed(), return_exceptions=True)

    def _close_when_idle(self) -> None:
        if self.gone and not self._waiting:
            self._writer.close()

    async def _read(self) -> None:
        try:
            while (body := await read_frame(self._reader)) is not None:
                self._settle(self._decoder.decode(body))
        except (OSError, ValueError, msgspec.MsgspecError, asyncio.IncompleteReadError) as error:
            logger.warning("the connection to the engine of %s broke: %s", self.info.model_version, error)
        finally:
            self._lose()

    def _settle(self, reply: Reply) -> None:
        future = self._waiting.pop(reply.query_id, None)
        if future is None or future.done():
            return
        match reply:
            case Answer():
                future.set_result(reply)
            case Failure(code=Draining.code):  # it came too late for this engine, and is not to blame for that
                self._gone = True
                future.set_exception(EngineLost())
            case Failure(code=code, message=message):
                future.set_exception(from_failure(code, message))
            case EngineInfo():
                future.set_exception(EngineLost())

    def _lose(self) -> None:
        self._gone = True
        self._writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(EngineLost())
        self._waiting.clear()


class Router:
    """Which engine serves, and how a query survives its end."""

    def __init__(self, in_flight_limit: int) -> None:
        self.status = Status()
        self.route: Route | None = None
        self.request_retry: Callable[[], None] = lambda: None  # asks the supervisor to try again at once what failed
        self._engine: EngineClient | None = None
        self._switched = asyncio.Event()
        self._alone = asyncio.Lock()
        self._ids = itertools.count(1)
        self._in_flight = 0
        self._in_flight_limit = in_flight_limit

    @property
    def ready(self) -> bool:
        """Whether an engine takes queries now."""
        return self._engine is not None and not self._engine.gone

    @property
    def info(self) -> EngineInfo | None:
        """Of the engine that serves, or of the one whose successor is awaited; None: nothing is loaded."""
        return self.route.info if self.route else None

    def next_id(self) -> int:
        """A query id that this worker has not used."""
        return next(self._ids)

    async def switch(self, routes: Routes) -> None:
        """From the return of this call on, no new query goes to another engine than that of `routes`."""
        engine = await _connect(routes.route)
        old, self._engine, self.route = self._engine, engine, routes.route
        self._switched.set()
        self._switched = asyncio.Event()
        if old is not None:
            old.retire()

    async def close(self) -> None:
        """Lets go of the engine; queries in flight fail."""
        engine, self._engine, self.route = self._engine, None, None
        if engine is not None:
            await engine.close()

    async def ask(self, query: Query) -> Served:
        """The answer of whichever engine serves.

        Raises Overloaded, NotReady, DeadlineExceeded, EngineCrashed, or what the engine's `Failure` stands for.
        """
        with self._permit():
            try:
                async with asyncio.timeout(query.deadline - time.monotonic()):
                    return await self._attempts(query)
            except TimeoutError:
                raise DeadlineExceeded(self._why_late()) from None

    @contextmanager
    def _permit(self) -> Iterator[None]:
        if self._in_flight >= self._in_flight_limit:
            raise Overloaded(f"{self._in_flight} requests are in flight already")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _attempts(self, query: Query) -> Served:
        for attempt in range(1, _ALONE + 1):
            try:
                return await (self._ask_alone(query) if attempt == _ALONE else self._ask(query))
            except EngineLost:
                metrics.ENGINE_LOSSES.labels(attempt).inc()
        raise EngineCrashed("the engine ended three times while it worked on this request, the last time on it alone")

    async def _ask_alone(self, query: Query) -> Served:
        """One suspect at a time: the others have not been sent when this one takes the engine with it."""
        async with self._alone:
            return await self._ask(msgspec.structs.replace(query, alone=True))

    async def _ask(self, query: Query) -> Served:
        engine = await self._serving()
        return Served(await engine.ask(query), engine.info)

    async def _serving(self) -> EngineClient:
        """The engine, or its successor as soon as there is one; NotReady when none is to be expected."""
        while True:
            if self._engine is not None and not self._engine.gone:
                return self._engine
            if self.route is None:
                raise NotReady("no model is loaded; /health/ready says why")
            await self._switched.wait()

    def _why_late(self) -> str:
        if self.ready:
            return "no answer came before the deadline"
        return "the engine ended, and no successor was ready before the deadline"


async def _connect(route: Route | None) -> EngineClient | None:
    """None also for an engine that died meanwhile: the supervisor knows, and sends its successor."""
    if route is None:
        return None
    try:
        return await EngineClient.connect(route)
    except OSError as error:
        logger.warning("the engine of %s cannot be reached: %s", route.info.model_version, error)
        return None
