"""The lean client sees every answer, and what kind it was."""

import asyncio
import json

from deploy.lean_client import HttpPool, http_requests

BODIES = [{"history": [str(number)], "k": 1} for number in range(4)]


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers in two parts; 503 where the history is "3"."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            status = b"503 No" if body["history"] == ["3"] else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 4\r\n\r\nab")
            await asyncio.sleep(0.001)
            writer.write(b"cd")
    except asyncio.IncompleteReadError:
        writer.close()


async def _outcomes(connections: int, count: int) -> list[bool]:
    outcomes: list[bool] = []
    async with await asyncio.start_server(_serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pool = await HttpPool.open("127.0.0.1", port, http_requests("x", BODIES), connections)
        for number in range(count):
            pool.ask(number, outcomes.append)
        while len(outcomes) < count:
            await asyncio.sleep(0.001)
        pool.close()
        await asyncio.sleep(0.01)
    return outcomes


def test_requests_wait_for_a_free_connection_and_each_is_answered_once() -> None:
    assert sorted(asyncio.run(_outcomes(connections=2, count=20))) == [False] * 5 + [True] * 15
