"""What a reader does at the same time."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.api.control import Route
from service.api.engine_link import EngineClient
from service.catalog.items import LiveItems
from service.frames import (
    Applied,
    Apply,
    Checked,
    CheckPatch,
    Document,
    EngineInfo,
    Find,
    Lookup,
    Ping,
    Prepare,
    Prepared,
)
from service.reader import server as reader_server
from service.reader.process import reader_info
from service.reader.server import Server
from service.reader.text_search import TextSearch
from tests.catalog_artifact import catalog_artifact


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def reading(folder: Path, socket: Path) -> AsyncIterator[EngineClient]:
    """A connection to a reader of one item, item-0, a red tent."""
    items = LiveItems(catalog_artifact(folder, [{"title": "Red tent"}], semantic_width=3), spare_items=2)
    info = reader_info(items, 0.0)
    server = Server(items, info)
    await server.listen(str(socket))
    client = await EngineClient.connect(Route(str(socket), info))
    try:
        async with asyncio.timeout(60):
            yield client
    finally:
        await client.close()
        await server.drain(60.0)


@pytest.mark.anyio
async def test_checks_of_changes_do_not_wait_for_searches(
    tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, searching, go_on = TextSearch.find, threading.Semaphore(0), threading.Event()

    def held_up(*arguments: Any) -> Any:
        searching.release()
        go_on.wait()
        return find(*arguments)

    monkeypatch.setattr(TextSearch, "find", held_up)
    async with reading(tmp_path, socket_path) as client:
        searches = [asyncio.create_task(client.request(Find(number, "tent", 1))) for number in range(1, 11)]
        try:
            await asyncio.to_thread(searching.acquire)
            checked = await client.request(CheckPatch(20, ["item-0", "none"], [None, None]))
            assert checked == Checked(20, ["none"])
            new = Prepare(21, [b'{"item_id": "new"}'], [[0.0, 1.0, 2.0]])
            assert isinstance(await client.request(new), Prepared)
            assert not any(search.done() for search in searches)
        finally:
            go_on.set()
        assert {type(reply) for reply in await asyncio.gather(*searches)} == {Document}


@pytest.mark.anyio
async def test_a_reader_whose_change_hangs_answers_no_ping_until_it_goes_on(
    tmp_path: Path, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, begun, go_on = LiveItems.stage, threading.Event(), threading.Event()

    def held_up(*arguments: Any) -> Any:
        begun.set()
        go_on.wait()
        return stage(*arguments)

    monkeypatch.setattr(LiveItems, "stage", held_up)
    async with reading(tmp_path, socket_path) as client:
        try:
            change = asyncio.create_task(client.request(Apply(1, 1, [], {})))
            await asyncio.to_thread(begun.wait)
            assert isinstance(await client.request(Ping(2)), EngineInfo), "a change may take its time"
            monkeypatch.setattr(reader_server, "LONGEST_STEP_S", 1e-9)
            ping = asyncio.create_task(client.request(Ping(3)))
            assert isinstance(await client.request(Lookup(4, "item-0")), Document)
            assert not ping.done()
            go_on.set()
            assert await change == Applied(1, 1, [])
            assert isinstance(await ping, EngineInfo)
            assert isinstance(await client.request(Ping(5)), EngineInfo)
        finally:
            go_on.set()
