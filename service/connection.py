"""One peer of an engine or a reader: its messages as they come, and replies to them.

A protocol and not a stream: a task that reads would have to be woken twice for every message.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import msgspec

from .frames import Cancel, Frames, Reply, Request, pack_reply

_FLUSH_S = 5.0

logger = logging.getLogger(__name__)

Receive = Callable[["Connection", Request], None]
"""Takes any message but `Cancel`; may raise ValueError, which ends the connection."""

Sent = Callable[[Reply], None]


class Connection(asyncio.Protocol):
    """One peer's connection and what it waits for, by query id. `connections` holds it while it lasts."""

    def __init__(self, connections: "set[Connection]", receive: Receive, sent: Sent | None = None) -> None:
        self.in_flight: dict[int, asyncio.Future[Any]] = {}
        self._connections = connections
        self._receive = receive
        self._sent = sent
        self._frames = Frames()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Request)
        self._lost = asyncio.Event()

    def send(self, reply: Reply) -> None:
        """Nothing where the peer has gone."""
        if self._transport.is_closing():
            return
        self._transport.write(pack_reply(reply, self._encoder))
        if self._sent:
            self._sent(reply)

    async def flush(self) -> None:
        """Closes when everything that was sent has left; a peer that does not read is not waited for long."""
        self._transport.close()
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self._lost.wait()
        except TimeoutError:
            logger.warning("a connection closed before all its answers were read")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.cut(data):
                if self._transport.is_closing():
                    return
                self._take(self._decoder.decode(body))
        except (ValueError, msgspec.MsgspecError) as error:
            logger.warning("a connection broke off: %s", error)
            self._leave()

    def _take(self, message: Request) -> None:
        asked = self.in_flight.get(message.query_id)
        if isinstance(message, Cancel):
            if asked:
                asked.cancel()
        elif asked:
            raise ValueError(f"query id {message.query_id} is in flight already")
        else:
            self._receive(self, message)

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
