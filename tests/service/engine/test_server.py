import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from models.graph import SearchRow
from service.engine.batcher import Batcher
from service.engine.catalog import Catalog
from service.engine.changes import Changes
from service.engine.live import LiveSearch
from service.engine.search import Found, Shape
from service.engine.server import Server
from service.engine.slots import Slot, Slots
from service.frames import Answer, Condition, EngineInfo, Failure, Query, Reply, pack, read_frame

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
        server = Server(catalog, batcher, Slots(2), Changes(search, batcher), INFO)
        await server.listen(str(socket_path))
        await leave_with_queries_in_flight(gated, socket_path)
        reader, writer = await asyncio.open_unix_connection(socket_path)
        answering = asyncio.create_task(answer_of(reader, writer))
        await server_has_seen_both(server)
        gated.gate.set()
        assert isinstance(await answering, Answer)
        writer.close()
        await server.drain(timeout_s=30.0)
        await ended

    asyncio.run(story())
    assert gated.rows == [1, 1]


class Watched(Slots):
    """Counts filters that want a slot."""

    wanted = 0

    async def acquire(self, key: bytes, compile_into: Callable[[int], Awaitable[None]]) -> Slot:
        self.wanted += 1
        return await super().acquire(key, compile_into)


def test_a_filter_that_cannot_be_takes_no_slot_from_another(
    catalog: Catalog, search: LiveSearch, socket_path: Path
) -> None:
    slots = Watched(2)

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


async def leave_with_queries_in_flight(gated: GatedSearch, path: Path) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    encoder = msgspec.msgpack.Encoder()
    writer.write(pack(query(0), encoder))
    await asyncio.to_thread(gated.running.wait)
    writer.write(b"".join(pack(query(number), encoder) for number in range(1, 100)))
    writer.close()
    await writer.wait_closed()


async def answer_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Query | None = None) -> object:
    writer.write(pack(asked or query(1), msgspec.msgpack.Encoder()))
    body = await read_frame(reader)
    assert body is not None
    decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
    return decoder.decode(body)


async def server_has_seen_both(server: Server) -> None:
    """The first client is gone, the second one's query waits."""
    while server.connections != 1 or server.in_flight != 1:
        await asyncio.sleep(0.005)


def query(number: int) -> Query:
    return Query(number, ["item-1"], 4, math.inf)
