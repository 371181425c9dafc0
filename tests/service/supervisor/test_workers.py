"""The control socket: what workers are told, and whose word a switch waits for."""

import asyncio
import errno
import select
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.api.control import Acknowledge, Order, Report, Retry, Route, Routes, Status, encode, read_order
from service.frames import EngineInfo
from service.supervisor.processes import Child
from service.supervisor.workers import Workers

pytestmark = pytest.mark.anyio

ROUTE = Route("/a/socket", EngineInfo(0, "v1", "CPUExecutionProvider", 1, [1], 1, 1, 0.0, 0.0, 1))

ROUTES = Routes(0, ROUTE)


class Worker:
    """The worker's end of a control connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def hear(self) -> Order | None:
        return await read_order(self.reader)

    def say(self, report: Report) -> None:
        self.writer.write(encode(report))

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@asynccontextmanager
async def control(acknowledge_s: float = 60.0, workers: int = 0) -> AsyncIterator[tuple[Workers, Path]]:
    """The supervisor's side, by default with no processes of its own."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder, socket.socket() as listener:
        path = Path(folder) / "control"
        told = Workers(listener, path, {}, workers, acknowledge_s)
        await told.start()
        yield told, path
        await told.stop(1.0)
        await asyncio.sleep(0.01)  # the loop's next round closes what has ended


async def connect(path: Path) -> Worker:
    """A worker that has heard what every new one is told."""
    worker = Worker(*await asyncio.open_unix_connection(path))
    assert isinstance(await worker.hear(), Status)
    assert isinstance(await worker.hear(), Routes)
    return worker


async def deaf_worker(path: Path) -> socket.socket:
    """One that is told everything, and reads no more than the first byte."""
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(str(path))
    deaf.setblocking(False)
    assert await asyncio.get_running_loop().sock_recv(deaf, 1)
    return deaf


def let_go(deaf: socket.socket) -> bool:
    """Whether the supervisor has closed its end."""
    poll = select.poll()
    poll.register(deaf, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


async def test_a_switch_waits_for_every_worker() -> None:
    async with control() as (workers, path):
        quick, slow = await connect(path), await connect(path)
        switch = asyncio.create_task(workers.route(ROUTES))
        order = await slow.hear()
        assert isinstance(order, Routes)
        assert order.route == ROUTE
        quick.say(Acknowledge(order.epoch))
        await asyncio.sleep(0.1)
        assert not switch.done()
        slow.say(Acknowledge(order.epoch))
        await switch
        await quick.close()
        await slow.close()


async def test_the_word_for_an_earlier_switch_does_not_count() -> None:
    async with control() as (workers, path):
        worker = await connect(path)
        switch = asyncio.create_task(workers.route(ROUTES))
        order = await worker.hear()
        assert isinstance(order, Routes)
        worker.say(Acknowledge(order.epoch - 1))
        await asyncio.sleep(0.1)
        assert not switch.done()
        worker.say(Acknowledge(order.epoch))
        await switch
        await worker.close()


async def test_a_switch_does_not_wait_for_a_worker_that_has_died() -> None:
    async with control() as (workers, path):
        worker = await connect(path)
        switch = asyncio.create_task(workers.route(ROUTES))
        await worker.hear()
        await worker.close()
        await switch


async def test_a_worker_that_says_nothing_is_let_go() -> None:
    async with control(acknowledge_s=0.05) as (workers, path):
        worker = await connect(path)
        await workers.route(ROUTES)
        assert isinstance(await worker.hear(), Routes)
        assert await worker.hear() is None
        await worker.close()


async def test_a_worker_that_reads_nothing_holds_only_one_switch_up() -> None:
    async with control(acknowledge_s=0.5) as (workers, path):
        deaf = await deaf_worker(path)
        workers.tell(Status(redis_reason="x" * 10_000_000))  # more than a socket holds
        await workers.route(ROUTES)
        while not let_go(deaf):
            await asyncio.sleep(0.01)
        deaf.close()


async def test_a_worker_that_reads_nothing_for_long_is_let_go_before_it_fills_the_memory() -> None:
    async with control() as (workers, path):
        deaf = await deaf_worker(path)
        for _ in range(5):
            workers.tell(Status(redis_reason="x" * 10_000_000))
        while not let_go(deaf):
            await asyncio.sleep(0.01)
        deaf.close()


async def test_a_worker_that_starts_later_hears_the_latest() -> None:
    async with control() as (workers, path):
        workers.tell(Status(active_version="v1"))
        await workers.route(ROUTES)
        worker = Worker(*await asyncio.open_unix_connection(path))
        assert await worker.hear() == Status(active_version="v1")
        assert await worker.hear() == Routes(1, ROUTE)
        await worker.close()


async def test_at_the_end_whoever_connects_is_refused_at_once() -> None:
    with tempfile.TemporaryDirectory(prefix="t-") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        workers = Workers(listener, Path(folder) / "control", {}, 0)
        await workers.start()
        await workers.stop(1.0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)


async def test_a_worker_may_ask_for_another_attempt() -> None:
    async with control() as (workers, path):
        asked = asyncio.Event()
        workers.on_retry = asked.set
        worker = await connect(path)
        worker.say(Retry())
        await asked.wait()
        await worker.close()


async def test_a_worker_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Event()

    async def spawn(*_: object) -> Child:
        if not failed:
            failed.append(OSError(errno.EAGAIN, "no more processes"))
            raise failed[0]
        tried.set()
        raise failed[0]

    failed: list[OSError] = []
    monkeypatch.setattr(Child, "spawn", spawn)
    async with control(workers=1):
        async with asyncio.timeout(10):
            await tried.wait()
