"""What a worker does with clients that are slow, broken or hostile, over real connections."""

import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn

from service.api import http_protocol
from service.api.app import create_app
from service.api.engine_client import Router
from service.api.http_protocol import Flow, HttpProtocol

from .client import settings
from .little_engine import answer as reply
from .little_engine import engine, routes

pytestmark = pytest.mark.anyio


def request(**wanted: object) -> tuple[bytes, bytes]:
    """Head and body."""
    body = json.dumps({"history": [], "k": 1} | wanted).encode()
    return b"POST /recommend HTTP/1.1\r\nhost: shop\r\ncontent-length: %d\r\n\r\n" % len(body), body


HEAD, BODY = request()
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def address(router: Router, folder: Path) -> AsyncIterator[str]:
    """Of a server on a Unix socket, with an engine behind it."""
    path = str(folder / "http")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        app = create_app(settings(), router)
        config = uvicorn.Config(
            app, http=HttpProtocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1
        )
        server = uvicorn.Server(config)
        async with engine(folder, lambda query: None if query.history == ["never"] else reply(query)) as little:
            await router.switch(routes(little))
            task = asyncio.create_task(server._serve(sockets=[listener]))
            yield path
            server.should_exit = True
            await task


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_unix_connection(address)
    try:
        yield reader, writer
    finally:
        writer.close()


async def write_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    return int(head.split()[1]), json.loads(await reader.readexactly(size))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "ARRIVAL_S", 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"POST /recomm", HEAD[:-2], HEAD, HEAD + BODY[:-1]])
async def test_a_request_that_does_not_come_to_its_end_is_408(address: str, sent: bytes) -> None:
    async with connected(address) as (reader, writer):
        writer.write(sent)
        status, problem = await answer(reader)
        assert (status, problem["code"], problem["status"]) == (408, "request_timeout", 408)
        assert not await reader.read()


@pytest.mark.usefixtures("impatient")
async def test_the_second_request_of_a_connection_has_to_arrive_too(address: str) -> None:
    async with connected(address) as (reader, writer):
        writer.write(HEAD + BODY + HEAD[:9])
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 408]
        assert not await reader.read()


SLOW = b"".join(request(history=["never"], timeout_ms=400))
CHUNKED = HEAD.replace(b"content-length: %d" % len(BODY), b"transfer-encoding: chunked")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("second", "status", "begun"),
    [
        (HEAD[:9], 408, 2),
        (HEAD + BODY[:-1], 408, 3),  # it has its turn before its time is over
        (b"no HTTP\r\n\r\n", 400, 2),
        (b"\x16\x03", 400, 2),
        (CHUNKED + b"no chunk\r\n", 400, 2),
    ],
    ids=["slow-head", "slow-body", "no-http", "binary", "no-chunk"],
)
async def test_a_bad_request_waits_for_the_answers_before_it(
    address: str, second: bytes, status: int, begun: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "service.api.edge")
    async with connected(address) as (reader, writer):
        writer.write(SLOW + HEAD + BODY + second)
        assert [(await answer(reader))[0] for _ in range(3)] == [504, 200, status]
        assert not await reader.read()
        await asyncio.sleep(0.05)
    passed = [record.message for record in caplog.records if record.name == "service.api.edge"]
    assert len(passed) == begun


async def test_a_head_without_end_waits_for_the_answer_before_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_BYTES", 10)
    async with connected(address) as (reader, writer):
        writer.write(SLOW + HEAD[:9])
        await asyncio.sleep(0.05)
        writer.write(HEAD[9:-2])
        assert [(await answer(reader))[0] for _ in range(2)] == [504, 431]


async def test_many_small_requests_in_few_packets_are_no_head(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_BYTES", 10)
    whole = b"GET /health/live HTTP/1.1\r\n\r\n" * 200
    async with connected(address) as (reader, writer):
        for place in range(0, len(whole), 1000):
            writer.write(whole[place : place + 1000])
            await asyncio.sleep(0.001)
        assert [(await answer(reader))[0] for _ in range(200)] == [200] * 200


class Transport(asyncio.Transport):
    """Knows whether it reads."""

    reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


def test_an_answer_lets_no_more_requests_in_while_others_wait() -> None:
    transport, waiting = Transport(), deque([cast("Any", "a request")])
    flow = Flow(transport, waiting)
    flow.pause_reading()
    flow.resume_reading()
    assert not transport.reads
    waiting.clear()
    flow.resume_reading()
    assert transport.reads


async def test_requests_do_not_pile_up_behind_one_that_takes_long(address: str) -> None:
    async with connected(address) as (_, writer):
        writer.write(b"".join(request(history=["never"], timeout_ms=1000)) + (HEAD + BODY) * 100_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.5)
        writer.transport.abort()  # it would send all the rest first


@pytest.mark.usefixtures("impatient")
async def test_an_answer_that_is_not_read_ends_the_connection(address: str) -> None:
    async with connected(address) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /openapi.json HTTP/1.1\r\n\r\n" * 1000)
        with pytest.raises(OSError, match=r"reset|pipe|lost"):
            await write_for_ever(writer)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("path", "status"), [(b"/recommend", 413), (b"/nothing", 404)])
async def test_the_rest_of_a_body_that_nobody_wants_is_not_waited_for(address: str, path: bytes, status: int) -> None:
    async with connected(address) as (reader, writer):
        writer.write(HEAD.replace(b"/recommend", path).replace(b"%d" % len(BODY), b"5000") + b"x")
        assert (await answer(reader))[0] == status
        assert not await reader.read()


@pytest.mark.parametrize("said", [b"", b"\r\n", HEAD + BODY + b"\r\n"], ids=["nothing", "blank", "answered"])
async def test_a_connection_that_asks_nothing_ends(address: str, said: bytes) -> None:
    async with connected(address) as (reader, writer):
        writer.write(said)
        await reader.read()


async def test_a_body_that_comes_after_its_answer_does_not_keep_the_connection(address: str) -> None:
    async with connected(address) as (reader, writer):
        writer.write(HEAD.replace(b"/recommend", b"/nothing"))
        assert (await answer(reader))[0] == 404
        writer.write(BODY)
        assert not await reader.read()


async def test_refusals_are_answers_like_others(address: str) -> None:
    async with connected(address) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nX-Request-Id: mine\r\nhost: shop\r\nno header\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"x-request-id: mine\r\n" in head
        assert b"date: " in head
        assert json.loads(await reader.read())["request_id"] == "mine"


async def test_a_request_that_arrives_in_pieces_is_answered_and_the_connection_stays(address: str) -> None:
    async with connected(address) as (reader, writer):
        for _ in range(2):
            for byte in HEAD + BODY:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            assert (await answer(reader))[0] == 200


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"x" * 300_000,
        b"GET / HTTP/1.1\r\nhost: shop\r\nx-long: " + b"x" * 300_000,
        b"GET / HTTP/1.1\r\n" + b"x-many: 1\r\n" * 30_000,
        b"POST /recommend HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"x-trailer: 1\r\n" * 30_000,
    ],
    ids=["path", "header", "headers", "trailers"],
)
async def test_a_head_without_end_is_431(address: str, endless: bytes) -> None:
    async with connected(address) as (reader, writer):
        answered = asyncio.create_task(answer(reader))
        for place in range(0, len(endless), 4000):
            writer.write(endless[place : place + 4000])
            await asyncio.sleep(0.001)  # in packets of their own
            if answered.done():
                break
        status, problem = await answered
        assert (status, problem["code"]) == (431, "head_too_large")
        assert place < 100_000


async def test_a_body_in_small_pieces_is_no_head(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_BYTES", 10)
    async with connected(address) as (reader, writer):
        writer.write(CHUNKED)
        for byte in BODY:
            for part in (b"1\r\n", b"%c" % byte, b"\r\n"):
                writer.write(part)
                await asyncio.sleep(0.001)
        writer.write(b"0\r\n\r\n")
        assert (await answer(reader))[0] == 200


async def test_what_is_not_http_is_a_problem_too(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with connected(address) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and the rest of a TLS greeting\r\n\r\n")
        status, problem = await answer(reader)
        assert (status, problem["code"]) == (400, "bad_http")
        assert not await reader.read()
    logged = [record.message for record in caplog.records if "uvicorn" in record.name or "refused" in record.message]
    assert logged == [f"request {problem['request_id']} refused: this is not a request of HTTP/1.1"]


async def test_an_upgrade_that_is_asked_for_is_ignored(address: str, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(address) as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert await answer(reader) == (200, {"status": "live"})
    assert [record.message for record in caplog.records if "uvicorn" in record.name] == []
