"""Client processes of the benchmark through HTTP: they begin together, and none waits for a server that has gone."""

import asyncio
from contextlib import suppress

import pytest

from deploy.bench.gpu_http import CONNECTIONS, apply
from deploy.errors import BenchError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]  # the clients import what they need, on busy machines

CLIENTS = 2
BODIES = [{"history": ["a"], "k": 1}]
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Answers until it is to end at some request, counted from 1; knows how many connections it had at the first."""

    def __init__(self, ends_at: int | None = None) -> None:
        self.connections = self.requests = 0
        self.connections_at_first = 0
        self._ends_at = ends_at
        self._open: list[asyncio.Task[None] | None] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, OSError):  # the client has gone
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                self.requests += 1
                self.connections_at_first = self.connections_at_first or self.connections
                if self._ends_at and self.requests >= self._ends_at:
                    break
                await asyncio.sleep(0.1)  # a handful for each connection is enough
                writer.write(GOOD)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def all_ended(self) -> None:
        await asyncio.gather(*(task for task in self._open if task))


async def test_all_clients_are_connected_before_any_of_them_asks() -> None:
    server = Server()
    async with await asyncio.start_server(server, "127.0.0.1", 0, backlog=1000) as listening:
        address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        seen = await asyncio.to_thread(apply, address, BODIES, CLIENTS, 1.0, None)
        await server.all_ended()
    assert server.connections_at_first == CLIENTS * CONNECTIONS
    assert len(seen.latencies) == server.requests
    # Of each connection one request is on its way at the end, and is answered after it.
    assert seen.in_time == server.requests - CLIENTS * CONNECTIONS


async def test_the_end_of_the_server_ends_the_block() -> None:
    server = Server(ends_at=200)
    async with await asyncio.start_server(server, "127.0.0.1", 0, backlog=1000) as listening:
        address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        with pytest.raises(BenchError, match="not answered by a recommendation"):
            await asyncio.to_thread(apply, address, BODIES, CLIENTS, 3600.0, None)
        await server.all_ended()
