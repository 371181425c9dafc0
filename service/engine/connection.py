"""One peer of an engine: its messages as they come, and replies to them.

A protocol and not a stream: a task that reads would have to be woken twice for every message.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import msgspec

from service import metrics
from service.frames import Answer, Failure, Frames, Reply, Request, pack_reply

logger = logging.getLogger(__name__)

Receive = Callable[["Connection", Request], None]
"""Takes a message; may raise ValueError, which ends the connection."""


class Connection(asyncio.Protocol):
    """One peer's connection and what it waits for. `connections` holds it while it lasts."""

    def __init__(self, connections: "set[Connection]", receive: Receive) -> None:
        self.in_flight: dict[int, asyncio.Future[Any]] = {}
        self._connections = connections
        self._receive = receive
        self._frames = Frames()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Request)
        self._lost = asyncio.Event()

    def send(self, reply: Reply) -> None:
        if self._transport.is_closing():
            return
        if isinstance(reply, Failure):
            metrics.REJECTED.labels(reply.code).inc()
        elif isinstance(reply, Answer) and reply.exhausted:
            metrics.EXHAUSTED.inc()
        self._transport.write(pack_reply(reply, self._encoder))

    async def flush(self) -> None:
        """Closes, and returns when everything that was sent has left."""
        self._transport.close()
        await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.cut(data):
                if self._transport.is_closing():
                    return
                self._receive(self, self._decoder.decode(body))
        except (ValueError, msgspec.MsgspecError) as error:
            logger.warning("a connection broke off: %s", error)
            self._leave()

    def pause_writing(self) -> None:
        """A peer that does not read its answers gets no more queries in."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if error or self._frames.incomplete:
            logger.warning("a connection broke off: %s", error or "it ended within a message")
        self._leave()
        self._lost.set()

    def _leave(self) -> None:
        """Drops what nobody waits for any more."""
        self._connections.discard(self)
        self._transport.close()
        for future in list(self.in_flight.values()):
            future.cancel()
