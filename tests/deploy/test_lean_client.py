"""The lean clients see every answer, what kind it was, and that none will come any more."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from deploy.lean_client import Ask, EngineConnection, HttpPool, engine_queries, http_requests

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # what is never answered would be waited for for longer

BODIES = [{"history": [str(number)], "k": 1} for number in range(4)]


class Server:
    """Answers in two parts; 503 where the history is "3". The first `deaths` connections end when they are asked."""

    def __init__(self, deaths: int = 0) -> None:
        self._deaths = deaths
        self._open: set[asyncio.Task[None] | None] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(asyncio.current_task())
        if self._deaths:
            self._deaths -= 1
            await reader.read(1)
            writer.transport.abort()
        else:
            with suppress(asyncio.IncompleteReadError):  # the client has gone
                await self._serve(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def all_ended(self) -> None:
        await asyncio.gather(*(task for task in self._open if task))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            status = b"503 No" if body["history"] == ["3"] else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 4\r\n\r\nab")
            await asyncio.sleep(0.001)
            writer.write(b"cd")


@asynccontextmanager
async def pool_of(connections: int, deaths: int = 0) -> AsyncIterator[HttpPool]:
    server = Server(deaths)
    async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        pool = await HttpPool.open("127.0.0.1", port, http_requests("x", BODIES), connections)
        yield pool
        pool.close()
        await server.all_ended()


async def _outcomes(ask: Ask, count: int) -> list[bool]:
    """Of the first `count` questions, all asked at once."""
    outcomes: list[bool] = []
    for number in range(count):
        ask(number, outcomes.append)
    while len(outcomes) < count:
        await asyncio.sleep(0.001)
    return outcomes


async def test_requests_wait_for_a_free_connection_and_each_is_answered_once() -> None:
    async with pool_of(2) as pool:
        assert sorted(await _outcomes(pool.ask, 20)) == [False] * 5 + [True] * 15


async def test_a_lost_connection_leaves_the_pool() -> None:
    async with pool_of(2, deaths=1) as pool:
        assert sorted(await _outcomes(pool.ask, 3)) == [False, True, True]
        assert await _outcomes(pool.ask, 3) == [True, True, True]


async def test_where_all_connections_are_lost_everything_is_answered_with_no() -> None:
    async with pool_of(2, deaths=2) as pool:
        assert await _outcomes(pool.ask, 5) == [False] * 5
        assert await _outcomes(pool.ask, 1) == [False]


async def test_what_is_asked_of_the_dead_is_answered_later() -> None:
    """Whoever asks again at every answer would call itself without end."""
    outcomes: list[bool] = []
    async with pool_of(1, deaths=1) as pool:
        assert await _outcomes(pool.ask, 1) == [False]
        pool.ask(0, outcomes.append)
        assert outcomes == []


async def test_what_waits_on_an_engine_that_ends_is_answered_with_no(tmp_path: Path) -> None:
    server, path = Server(deaths=1), str(tmp_path / "engine")
    async with await asyncio.start_unix_server(server, path):
        connection = await EngineConnection.open(path, engine_queries(BODIES))
        assert await _outcomes(connection.ask, 3) == [False] * 3
        assert await _outcomes(connection.ask, 1) == [False]
        connection.close()
        await server.all_ended()
