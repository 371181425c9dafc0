"""What a reader does at the same time."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from service.api.control import Route
from service.api.engine_link import EngineClient
from service.catalog.items import LiveItems
from service.frames import Checked, CheckPatch, Document, Find, Prepare, Prepared
from service.reader.process import reader_info
from service.reader.server import Server
from service.reader.text_search import TextSearch
from tests.catalog_artifact import catalog_artifact


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
    items = LiveItems(catalog_artifact(tmp_path, [{"title": "Red tent"}], semantic_width=3), spare_items=2)
    info = reader_info(items, 0.0)
    server = Server(items, info)
    await server.listen(str(socket_path))
    client = await EngineClient.connect(Route(str(socket_path), info))
    searches = [asyncio.create_task(client.request(Find(number, "tent", 1))) for number in range(1, 11)]
    try:
        async with asyncio.timeout(60):
            await asyncio.to_thread(searching.acquire)
            checked = await client.request(CheckPatch(20, ["item-0", "none"], [None, None]))
            assert checked == Checked(20, ["none"])
            new = Prepare(21, [b'{"item_id": "new"}'], [[0.0, 1.0, 2.0]])
            assert isinstance(await client.request(new), Prepared)
        assert not any(search.done() for search in searches)
    finally:
        go_on.set()
    assert {type(reply) for reply in await asyncio.gather(*searches)} == {Document}
    await client.close()
    await server.drain(60.0)
