"""Clients that cost next to nothing, so that a benchmark measures the service and not its client.

Requests are bytes made beforehand. `Ask` is what both clients share: one question, and a call when its answer is whole.
A connection that is lost answers what waits on it, and whatever is asked on it afterwards, with False.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import httptools
import msgspec

from service.frames import Answer, Frames, Query, Reply, pack

_FAR_FUTURE: Final = float("inf")

Done = Callable[[bool], None]
"""Called with whether the answer was a recommendation."""


class Ask(Protocol):
    """Asks the `number`-th question of a benchmark."""

    def __call__(self, number: int, done: Done, /) -> None: ...


def http_requests(host: str, bodies: Sequence[dict[str, Any]]) -> list[bytes]:
    """Whole HTTP requests for `POST /recommend`, one a body."""
    contents = [json.dumps(body).encode() for body in bodies]
    head = "POST /recommend HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
    return [head.format(host, len(content)).encode() + content for content in contents]


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self) -> None:
        self.lost = False
        self._done: Done | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes, done: Done) -> None:
        if self.lost:
            _refuse(done)
            return
        self._done = done
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        good = self._parser.get_status_code() == 200
        self._parser = httptools.HttpResponseParser(self)
        self._answer(good)

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True
        self._answer(False)

    def close(self) -> None:
        self._done = None
        self._transport.close()

    def _answer(self, good: bool) -> None:
        done, self._done = self._done, None
        if done:
            done(good)


class HttpPool:
    """Connections to one address; a request that finds none free waits for one, and fails where all are lost."""

    def __init__(self, connections: Sequence[HttpConnection], requests: Sequence[bytes]) -> None:
        self._all = connections
        self._free = deque(connections)
        self._busy = 0
        self._requests = requests
        self._waiting: deque[tuple[bytes, Done]] = deque()

    @classmethod
    async def open(cls, host: str, port: int, requests: Sequence[bytes], connections: int) -> "HttpPool":
        loop = asyncio.get_running_loop()
        pairs = [await loop.create_connection(HttpConnection, host, port) for _ in range(connections)]
        return cls([connection for _, connection in pairs], requests)

    def ask(self, number: int, done: Done) -> None:
        self._waiting.append((self._requests[number % len(self._requests)], done))
        self._next()

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def _next(self) -> None:
        """Begins what can begin now; nothing waits for a connection that will never come."""
        while self._free and self._free[0].lost:
            self._free.popleft()
        if self._free and self._waiting:
            self._busy += 1
            self._start(self._free.popleft(), *self._waiting.popleft())
        elif not self._busy:
            while self._waiting:
                _refuse(self._waiting.popleft()[1])

    def _start(self, connection: HttpConnection, request: bytes, done: Done) -> None:
        def ended(good: bool) -> None:
            self._busy -= 1
            self._free.append(connection)
            self._next()
            done(good)

        connection.ask(request, ended)


class EngineConnection(asyncio.Protocol):
    """One connection to an engine's socket, any number of queries on it."""

    def __init__(self, queries: Sequence[Query]) -> None:
        self._queries = queries
        self._ids = itertools.count(1)
        self._waiting: dict[int, Done] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
        self._frames = Frames()
        self._lost = False

    @classmethod
    async def open(cls, socket: str, queries: Sequence[Query]) -> "EngineConnection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(lambda: cls(queries), socket)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, number: int, done: Done) -> None:
        if self._lost:
            _refuse(done)
            return
        query = self._queries[number % len(self._queries)]
        query.query_id = next(self._ids)
        self._waiting[query.query_id] = done
        self._transport.write(pack(query, self._encoder))

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.cut(data):
            reply = self._decoder.decode(frame)
            self._waiting.pop(reply.query_id)(isinstance(reply, Answer))

    def connection_lost(self, _: Exception | None) -> None:
        self._lost = True
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            done(False)

    def close(self) -> None:
        self._waiting.clear()
        self._transport.close()


def _refuse(done: Done) -> None:
    """Later, as every other answer comes: whoever asks again at once would call itself without end."""
    asyncio.get_running_loop().call_soon(done, False)


def engine_queries(bodies: Sequence[dict[str, Any]]) -> list[Query]:
    """What a worker would make of the same bodies; they have a history and `k`."""
    return [Query(0, body["history"], body["k"], deadline=_FAR_FUTURE) for body in bodies]
