"""One connection to one engine or reader: any number of requests in flight, one reply to each."""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import msgspec

from service.errors import Draining, from_failure
from service.frames import (
    Answer,
    Apply,
    Cancel,
    CheckPatch,
    Children,
    EngineInfo,
    Failure,
    Find,
    Frames,
    Lookup,
    Ping,
    Place,
    Prepare,
    Query,
    Reply,
    pack,
)

from .control import Route

Asked = Query | Ping | Apply | Place | Prepare | CheckPatch | Lookup | Find | Children

logger = logging.getLogger(__name__)


class EngineLost(Exception):  # noqa: N818 - never leaves this module
    """The engine ended, or would take no more queries, before it answered."""


class EngineClient(asyncio.Protocol):
    """One connection to one engine; any number of queries in flight."""

    def __init__(self, info: EngineInfo) -> None:
        self.info = info
        self._gone = False
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._frames = Frames()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
        self._lost = asyncio.Event()
        self.on_lost: Callable[[], None] = lambda: None  # the connection has ended

    @classmethod
    async def connect(cls, route: Route) -> "EngineClient":
        """Raises OSError when no engine listens there."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_unix_connection(lambda: cls(route.info), route.socket)
        return client

    @property
    def gone(self) -> bool:
        """Whether it takes no more queries; a write that failed closes the connection before the reader notices."""
        return self._gone or self._transport.is_closing()

    async def ask(self, query: Query) -> Answer:
        """Raises EngineLost, or the ServiceError that the engine's `Failure` stands for."""
        reply = await self.request(query)
        if not isinstance(reply, Answer):
            raise EngineLost
        return reply

    async def request(self, message: Asked) -> Reply:
        """The reply; raises EngineLost, BodyTooLarge, or the ServiceError that a `Failure` stands for.

        The frame is written before anything is awaited: who chose this engine a moment ago still means it. Cancelling
        the call cancels a query in the engine.
        """
        if self.gone:
            raise EngineLost
        frame = pack(message, self._encoder)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[message.query_id] = future
        try:
            self._transport.write(frame)
            return await future
        finally:
            if self._waiting.pop(message.query_id, None) and not self._transport.is_closing():
                self._transport.write(pack(Cancel(message.query_id), self._encoder))
            self._close_when_idle()

    def retire(self) -> None:
        """Takes no more queries, and closes as soon as those in flight are answered."""
        self._gone = True
        self._close_when_idle()

    async def close(self) -> None:
        """Closes at once; queries in flight raise EngineLost."""
        self._gone = True
        self._transport.abort()
        await self._lost.wait()

    def _close_when_idle(self) -> None:
        if self.gone and not self._waiting:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.cut(data):
                self._settle(self._decoder.decode(body))
        except (ValueError, msgspec.MsgspecError) as error:
            self._broke(error)
            self._lose()

    def connection_lost(self, error: Exception | None) -> None:
        if error or self._frames.incomplete:
            self._broke(error or "it ended within a reply")
        self._lose()
        self._lost.set()
        self.on_lost()

    def _broke(self, why: Exception | str) -> None:
        logger.warning("the connection to the engine of %s broke: %s", self.info.model_version, why)

    def _settle(self, reply: Reply) -> None:
        future = self._waiting.pop(reply.query_id, None)
        if future is None or future.done():
            return
        match reply:
            case Failure(code=Draining.code):  # it came too late for this engine, and is not to blame for that
                self._gone = True
                future.set_exception(EngineLost())
            case Failure(code=code, message=message, errors=errors):
                future.set_exception(from_failure(code, message, errors))
            case _:
                future.set_result(reply)

    def _lose(self) -> None:
        self._gone = True
        self._transport.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(EngineLost())
        self._waiting.clear()
