import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from models.graph import SearchRow
from service.api.control import Route, Routes
from service.api.engine_client import Router, Served
from service.engine import server as engine_server
from service.engine.batcher import Batcher
from service.engine.catalog import Catalog
from service.engine.changes import Changes
from service.engine.live import LiveSearch
from service.engine.search import Found, Search, Shape
from service.engine.server import Server
from service.engine.slots import Slot, Slots
from service.errors import Overloaded
from service.frames import (
    Answer,
    Applied,
    Apply,
    Cancel,
    Condition,
    EngineInfo,
    Failure,
    Ping,
    Query,
    Reply,
    Request,
    pack,
    read_frame,
)
from service.settings import Settings

INFO = EngineInfo(0, "tiny-1", "CPUExecutionProvider", 60, [4, 8], 3, 8, load_s=0.0, warm_s=0.0, pid=1)


class GatedSearch:
    """The real search, held until the test opens the gate."""

    def __init__(self, search: LiveSearch) -> None:
        self._search = search
        self.rows: list[int] = []
        self.running = threading.Event()
        self.gate = threading.Event()

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> Found:
        self.rows.append(len(rows))
        self.running.set()
        self.gate.wait()
        return self._search.run(rows, shape)


def test_queries_of_a_client_that_left_cost_no_compute(catalog: Catalog, search: LiveSearch, socket_path: Path) -> None:
    gated = GatedSearch(search)

    async def story() -> None:
        batcher = Batcher(gated, queue_limit=100, max_rows=64)
        ended = batcher.start()
        server = Server(catalog, batcher, Slots(2, 8), Changes(search, batcher), INFO)
        await server.listen(str(socket_path))
        await leave_with_queries_in_flight(server, gated, socket_path)
        reader, writer = await asyncio.open_unix_connection(socket_path)
        answering = asyncio.create_task(answer_of(reader, writer))
        await until(lambda: server.in_flight == 1)
        gated.gate.set()
        assert isinstance(await answering, Answer)
        writer.close()
        await server.drain(timeout_s=30.0)
        await ended

    asyncio.run(story())
    assert gated.rows == [1, 1]


def test_a_client_that_goes_before_its_deadline_is_not_counted_as_late(
    catalog: Catalog, search: LiveSearch, socket_path: Path
) -> None:
    gated = GatedSearch(search)

    async def story() -> None:
        async with while_it_searches(catalog, search, gated, socket_path) as (reader, writer):
            left, late = (sample("prorec_rejected_total", reason=why) for why in ("cancelled", "deadline_exceeded"))
            filtered = msgspec.structs.replace(query(3), include_items=["item-2"])
            for asked in (query(2), filtered):
                assert await code_of_cancelled(reader, writer, asked) == "cancelled"
            soon = msgspec.structs.replace(query(4), deadline=time.monotonic() + 0.05)
            assert await code_of_cancelled(reader, writer, soon) == "deadline_exceeded"
            assert sample("prorec_rejected_total", reason="cancelled") == left + 2
            assert sample("prorec_rejected_total", reason="deadline_exceeded") == late + 1
            gated.gate.set()

    asyncio.run(story())


def test_an_engine_whose_search_hangs_answers_no_ping_until_it_goes_on(
    catalog: Catalog, search: LiveSearch, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = GatedSearch(search)

    async def story() -> None:
        async with while_it_searches(catalog, search, gated, socket_path) as (reader, writer):
            assert isinstance(await answer_of(reader, writer, Ping(2)), EngineInfo), "a run may take its time"
            monkeypatch.setattr(engine_server, "LONGEST_STEP_S", 1e-9)
            writer.write(pack(Ping(3), msgspec.msgpack.Encoder()))
            popular = await answer_of(reader, writer, msgspec.structs.replace(query(4), history=[]))
            assert isinstance(popular, Answer), "the ping before it has no answer yet"
            gated.gate.set()
            replies = [await next_reply(reader), await next_reply(reader)]
            assert {type(reply): reply.query_id for reply in replies} == {Answer: 1, EngineInfo: 3}
            assert isinstance(await answer_of(reader, writer, Ping(5)), EngineInfo)

    asyncio.run(story())


def test_an_engine_whose_change_of_the_catalog_hangs_answers_no_ping_until_it_goes_on(
    catalog: Catalog, search: LiveSearch, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate, apply = threading.Event(), threading.Event(), search.apply

    def held(*change: Any) -> list[str]:
        begun.set()
        gate.wait(60)
        return apply(*change)

    monkeypatch.setattr(search, "apply", held)

    async def story() -> None:
        async with serving(catalog, search, search, socket_path) as (reader, writer):
            writer.write(pack(Apply(1, 0, [], {}), msgspec.msgpack.Encoder()))
            await asyncio.to_thread(begun.wait)
            assert isinstance(await answer_of(reader, writer, Ping(2)), EngineInfo), "a change may take its time"
            monkeypatch.setattr(engine_server, "LONGEST_STEP_S", 1e-9)
            writer.write(pack(Ping(3), msgspec.msgpack.Encoder()))
            assert isinstance(await answer_of(reader, writer, query(4)), Answer), "the ping before it has no answer yet"
            gate.set()
            replies = [await next_reply(reader), await next_reply(reader)]
            assert {type(reply): reply.query_id for reply in replies} == {Applied: 1, EngineInfo: 3}
            assert isinstance(await answer_of(reader, writer, Ping(5)), EngineInfo)

    asyncio.run(story())


class Watched(Slots):
    """Counts filters that want a slot."""

    wanted = 0

    async def acquire(self, key: bytes, compile_into: Callable[[int], Awaitable[None]]) -> Slot:
        self.wanted += 1
        return await super().acquire(key, compile_into)


def test_a_filter_that_cannot_be_takes_no_slot_from_another(
    catalog: Catalog, search: LiveSearch, socket_path: Path
) -> None:
    slots = Watched(2, 8)

    async def story() -> None:
        batcher = Batcher(search, queue_limit=100, max_rows=64)
        ended = batcher.start()
        server = Server(catalog, batcher, slots, Changes(search, batcher), INFO)
        await server.listen(str(socket_path))
        reader, writer = await asyncio.open_unix_connection(socket_path)
        wrong = msgspec.structs.replace(query(1), filter=[Condition("colour of the day", any_of=["red"])])
        reply = await answer_of(reader, writer, wrong)
        assert isinstance(reply, Failure)
        assert reply.code == "bad_filter"
        right = msgspec.structs.replace(query(2), include_items=["item-2"])
        assert isinstance(await answer_of(reader, writer, right), Answer)
        writer.close()
        await server.drain(timeout_s=30.0)
        await ended

    asyncio.run(story())
    assert slots.wanted == 1


def test_a_storm_of_filters_holds_up_no_query_without_one(
    catalog: Catalog, search: LiveSearch, socket_path: Path
) -> None:
    """Asked as a worker asks, whose queries in flight are bounded too."""
    settings, gated = Settings(queue_limit=8, max_batch_rows=2), GatedSearch(search)

    async def story() -> None:
        batcher = Batcher(gated, queue_limit=settings.queue_limit, max_rows=settings.max_batch_rows)
        ended = batcher.start()
        slots = Slots(2, settings.filter_queue_limit)
        server = Server(catalog, batcher, slots, Changes(search, batcher), INFO)
        await server.listen(str(socket_path))
        router = Router(settings.in_flight_limit)
        await router.switch(Routes(1, Route(str(socket_path), INFO)))
        holder = ask(router, include_items=["item-2"])  # of the only slot, while its search runs
        await asyncio.to_thread(gated.running.wait)
        storm, rejected = [], sample("prorec_rejected_total", reason="overloaded")
        for number in range(3, 33):
            storm.append(ask(router, include_items=[f"item-{number}"]))
            assert (await ask(router, history=[])).answer.source == "popular"
        waiting = [task for task in storm[:-1] if not task.done()]
        assert waiting == storm[: settings.filter_queue_limit]
        assert sample("prorec_filter_queue_depth") == len(waiting)
        for refusal in await asyncio.gather(*storm[len(waiting) :], return_exceptions=True):
            assert isinstance(refusal, Overloaded)
            assert str(refusal) == "4 queries are waiting for their filters already"
        assert sample("prorec_rejected_total", reason="overloaded") == rejected + len(storm) - len(waiting)
        unfiltered = [ask(router) for _ in range(settings.queue_limit - 2)]  # leaves room for what waits for its filter
        while batcher.waiting < len(unfiltered):
            assert not any(task.done() for task in unfiltered)
            await asyncio.sleep(0.005)
        gated.gate.set()
        assert all(served.answer.item_ids for served in await asyncio.gather(holder, *unfiltered, *waiting))
        await router.close()
        await server.drain(timeout_s=30.0)
        await ended

    asyncio.run(story())


@asynccontextmanager
async def while_it_searches(
    catalog: Catalog, search: LiveSearch, gated: GatedSearch, path: Path
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that searches for query 1 until the gate opens; after the block it has drained."""
    async with serving(catalog, search, gated, path) as (reader, writer):
        writer.write(pack(query(1), msgspec.msgpack.Encoder()))
        await asyncio.to_thread(gated.running.wait)
        yield reader, writer


@asynccontextmanager
async def serving(
    catalog: Catalog, search: LiveSearch, searches: Search, path: Path
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server whose batches `searches` runs; after the block it has drained."""
    batcher = Batcher(searches, queue_limit=100, max_rows=64)
    ended = batcher.start()
    server = Server(catalog, batcher, Slots(2, 8), Changes(search, batcher), INFO)
    await server.listen(str(path))
    reader, writer = await asyncio.open_unix_connection(path)
    yield reader, writer
    writer.close()
    await server.drain(timeout_s=30.0)
    await ended


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def ask(router: Router, **options: object) -> "asyncio.Task[Served]":
    asked = msgspec.structs.replace(query(router.next_id()), deadline=time.monotonic() + 60.0, **options)
    return asyncio.create_task(router.ask(asked))


async def leave_with_queries_in_flight(server: Server, gated: GatedSearch, path: Path) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    encoder = msgspec.msgpack.Encoder()
    writer.write(pack(query(0), encoder))
    await asyncio.to_thread(gated.running.wait)
    writer.write(b"".join(pack(query(number), encoder) for number in range(1, 100)))
    await until(lambda: server.in_flight == 100)
    writer.close()
    await writer.wait_closed()
    await until(lambda: server.in_flight == 0)


async def answer_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Request | None = None) -> Reply:
    writer.write(pack(asked or query(1), msgspec.msgpack.Encoder()))
    return await next_reply(reader)


async def next_reply(reader: asyncio.StreamReader) -> Reply:
    body = await read_frame(reader)
    assert body is not None
    decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
    return decoder.decode(body)


async def code_of_cancelled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Query) -> str:
    """Of the failure of a query that is cancelled at once, or at its deadline."""
    writer.write(pack(asked, msgspec.msgpack.Encoder()))
    if asked.deadline < math.inf:
        await asyncio.sleep(asked.deadline - time.monotonic())
    reply = await answer_of(reader, writer, Cancel(asked.query_id))
    assert isinstance(reply, Failure)
    return reply.code


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def query(number: int) -> Query:
    return Query(number, ["item-1"], 4, math.inf)
