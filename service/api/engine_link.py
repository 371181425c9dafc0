"""One connection to one engine or reader: any number of requests in flight, one reply to each."""

import asyncio
import logging
from typing import Final

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
    Lookup,
    Ping,
    Place,
    Prepare,
    Query,
    Reply,
    pack,
    read_frame,
)

from .control import Route

Asked = Query | Ping | Apply | Place | Prepare | CheckPatch | Lookup | Find | Children

_READ_BUFFER_BYTES: Final = 1 << 20

# Of every connection until its end: once it is retired nothing else refers to what reads it.
_reading: Final[set["asyncio.Task[None]"]] = set()

logger = logging.getLogger(__name__)


class EngineLost(Exception):  # noqa: N818 - never leaves this module
    """The engine ended, or would take no more queries, before it answered."""


class EngineClient:
    """One connection to one engine; any number of queries in flight."""

    def __init__(self, info: EngineInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.info = info
        self._gone = False
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
        self._reading = asyncio.create_task(self._read())
        _reading.add(self._reading)
        self._reading.add_done_callback(_reading.discard)

    @classmethod
    async def connect(cls, route: Route) -> "EngineClient":
        """Raises OSError when no engine listens there."""
        return cls(route.info, *await asyncio.open_unix_connection(route.socket, limit=_READ_BUFFER_BYTES))

    @property
    def gone(self) -> bool:
        """Whether it takes no more queries; a write that failed closes the connection before the reader notices."""
        return self._gone or self._writer.is_closing()

    async def ask(self, query: Query) -> Answer:
        """Raises EngineLost, or the ServiceError that the engine's `Failure` stands for."""
        reply = await self.request(query)
        if not isinstance(reply, Answer):
            raise EngineLost
        return reply

    async def request(self, message: Asked) -> Reply:
        """The reply; raises EngineLost, or the ServiceError that a `Failure` stands for.

        The frame is written before anything is awaited: who chose this engine a moment ago still means it. Cancelling
        the call cancels a query in the engine.
        """
        if self.gone:
            raise EngineLost
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[message.query_id] = future
        try:
            self._writer.write(pack(message, self._encoder))
            return await future
        finally:
            if self._waiting.pop(message.query_id, None) and not self._writer.is_closing():
                self._writer.write(pack(Cancel(message.query_id), self._encoder))
            self._close_when_idle()

    def retire(self) -> None:
        """Takes no more queries, and closes as soon as those in flight are answered."""
        self._gone = True
        self._close_when_idle()

    async def close(self) -> None:
        """Closes at once; queries in flight raise EngineLost."""
        self._reading.cancel()
        self._writer.close()  # the reader closes it too, unless it is cancelled before its first step
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
            case Failure(code=Draining.code):  # it came too late for this engine, and is not to blame for that
                self._gone = True
                future.set_exception(EngineLost())
            case Failure(code=code, message=message, errors=errors):
                future.set_exception(from_failure(code, message, errors))
            case _:
                future.set_result(reply)

    def _lose(self) -> None:
        self._gone = True
        self._writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(EngineLost())
        self._waiting.clear()
