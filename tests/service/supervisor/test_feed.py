"""The live catalog on its way from Redis to engines: real processes that keep what they are told, and a real Redis."""

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.catalog.records import ItemChange, ItemRecord
from service.frames import Applied, Apply, Document, Lookup
from service.store import CatalogSighting, Store
from service.supervisor.board import KEPT_UNPLACED, Board
from service.supervisor.catalog import Feeds
from service.supervisor.codes import Code, Codes
from service.supervisor.engine import Engine, Program, StartError
from service.supervisor.feed import chunks
from service.supervisor.forks import starter
from service.supervisor.processes import METRICS_FOLDER
from tests.service.plain_artifact import plain_artifact

from .waiting import until

pytestmark = pytest.mark.anyio

LITTLE = Program("tests.service.supervisor.little_engine")


class Scene:
    """The catalog of one replica, and its engines."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.board = Board()
        self.feeds = Feeds(Codes(store), self.board)
        self.feeds.catalog.known.set()
        self.engines: list[Engine] = []

    def change(self, *changes: ItemChange) -> None:
        """In Redis, and told as the follower tells it."""
        self.store.change_items(changes)
        self.feeds.take(self.store.catalog_changes(self.feeds.catalog.revision, self.feeds.catalog.era or None))

    async def start(self, version: str = "v1", *, places: bool = True, serves: bool = True) -> Engine:
        socket = self.folder / f"{len(self.engines)}.sock"
        spawn = starter(os.environ | {METRICS_FOLDER: str(self.folder)}, None)
        engine = await Engine.start(Path(version), socket, spawn, LITTLE)
        self.engines.append(engine)
        await self.feeds.join(engine, places=places, serves=serves)
        return engine

    async def settled(self) -> None:
        await until(lambda: self.board.status.catalog_revision == self.feeds.catalog.revision)


class SlowPlacements:
    """A store that takes its time, for one version, until the gate is open."""

    def __init__(self, store: Store, version: str) -> None:
        self.store, self.version, self.gate = store, version, threading.Event()
        self.placements = store.placements

    def place(self, version: str, codes: Mapping[str, Code]) -> dict[str, Code]:
        if version == self.version:
            self.gate.wait()
        return self.store.place(version, codes)


async def known(engine: Engine, item_id: str) -> dict[str, Any]:
    reply = await engine.request(Lookup(0, item_id))
    assert isinstance(reply, Document)
    found: dict[str, Any] = msgspec.json.decode(reply.body)
    return found


async def code(engine: Engine, item_id: str) -> list[int]:
    """As soon as the engine has one."""
    async with asyncio.timeout(60):
        while not (found := (await known(engine, item_id))["code"]):
            await asyncio.sleep(0.01)
    return list(found)


async def availability(engine: Engine, item_id: str, wanted: bool) -> None:
    """Returns when the engine has heard of it."""
    async with asyncio.timeout(60):
        while ((await known(engine, item_id))["item"] or {}).get("available", True) is not wanted:
            await asyncio.sleep(0.01)


@pytest.fixture
async def scene(store: Store, tmp_path: Path) -> AsyncIterator[Scene]:
    for version in ("v1", "v2"):
        store.publish(plain_artifact(tmp_path, version))
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        scene = Scene(store, Path(folder))
        yield scene
        for engine in scene.engines:
            await engine.drain(5.0)


def added(item_id: str) -> ItemChange:
    return ItemChange(item_id, item={"item_id": item_id, "title": "new"})


async def test_a_change_reaches_every_engine_and_the_reader_and_the_slowest_counts(scene: Scene) -> None:
    engines = [await scene.start("v1"), await scene.start("v2"), await scene.start("v1", places=False, serves=False)]
    scene.change(ItemChange("item-1", available=False))
    await scene.settled()
    for engine in engines:
        await availability(engine, "item-1", False)
    engines[1].child.signal(signal.SIGSTOP)
    scene.change(ItemChange("item-1", available=True))
    await availability(engines[0], "item-1", True)
    assert scene.board.status.catalog_revision == 1
    engines[1].child.signal(signal.SIGCONT)
    await scene.settled()


async def test_an_engine_that_starts_later_is_ready_only_with_everything(scene: Scene) -> None:
    scene.change(ItemChange("item-1", available=False), ItemChange("item-2", attributes={"price": 3}))
    engine = await scene.start()
    assert (await known(engine, "item-1"))["item"]["available"] is False
    assert (await known(engine, "item-2"))["item"]["attributes"] == {"price": 3}
    assert scene.board.status.catalog_revision == 1


class Gated:
    """An engine that takes a change only when it may."""

    version = "v2"

    def __init__(self) -> None:
        self.asked, self.may = asyncio.Event(), asyncio.Event()
        self.records: dict[str, ItemRecord] = {}

    async def request(self, message: Apply) -> Applied:
        self.asked.set()
        await self.may.wait()
        await asyncio.sleep(0.02)  # long enough for whoever waits for it to be ready too early
        self.records |= {record.item_id: record for record in message.records}
        return Applied(0, message.revision, [])


@pytest.mark.parametrize("dies", [False, True])
async def test_an_engine_is_not_ready_before_what_others_obey_already_counts_there_too(
    scene: Scene, dies: bool
) -> None:
    """Nor where the one that obeyed has died since: users have been told."""
    before = await scene.start()
    scene.change(ItemChange("item-1", available=False))
    gated: Any = Gated()
    joining = asyncio.create_task(scene.feeds.join(gated, places=True, serves=True))
    await gated.asked.wait()
    scene.change(ItemChange("item-2", available=False))  # while the new engine takes in what was known before
    await until(lambda: scene.board.status.catalog_revision == 2)
    if dies:
        await before.child.kill()
        scene.change(ItemChange("item-3", available=False))  # by which it is missed
        await until(lambda: scene.board.status.catalog_revision == 0)
    gated.may.set()
    await joining
    assert {"item-1", "item-2"} <= {item_id for item_id, record in gated.records.items() if not record.available}
    assert scene.board.status.catalog_revision >= 2


async def test_codes_that_redis_has_lost_are_put_back_with_the_catalog(scene: Scene) -> None:
    engine = await scene.start()
    scene.change(added("new"))
    held, keys, client = await code(engine, "new"), scene.store.keys, scene.store.redis.client
    before = scene.store.catalog_changes(0)
    client.delete(keys.catalog, keys.items, keys.changed, keys.codes("v1"), keys.coded("v1"))
    scene.store.restore_catalog(before.records, before.revision)
    scene.feeds.take(scene.store.catalog_changes(before.revision, before.era))
    await until(lambda: scene.store.placements("v1") == {"new": tuple(held)})
    await until(lambda: scene.feeds.as_last().codes == {"v1": {"new": tuple(held)}})
    assert await code(engine, "new") == held


async def test_revisions_of_another_era_are_not_taken_for_those_of_this_one(scene: Scene) -> None:
    engine = await scene.start()
    for available in (False, True, False):
        scene.change(ItemChange("item-1", available=available))
    await scene.settled()
    before = scene.board.status.catalog_era
    engine.child.signal(signal.SIGSTOP)
    scene.store.redis.client.delete(scene.store.keys.catalog, scene.store.keys.items, scene.store.keys.changed)
    scene.change(ItemChange("item-2", available=False))
    assert scene.board.status.catalog_era not in ("", before)
    assert scene.board.status.catalog_revision == 0  # the engine obeys nothing of this era yet
    engine.child.signal(signal.SIGCONT)
    await until(lambda: scene.board.status.catalog_revision == 1)


async def test_no_engine_is_ready_before_the_catalog_has_been_read(scene: Scene) -> None:
    scene.feeds.catalog.known.clear()
    start = asyncio.create_task(scene.start())
    await until(lambda: bool(scene.engines))
    await asyncio.sleep(0.1)
    assert not start.done()
    scene.change(ItemChange("item-1", available=False))
    assert (await known(await start, "item-1"))["item"]["available"] is False


async def test_an_added_item_gets_the_same_code_in_every_engine_of_a_version(scene: Scene) -> None:
    first = await scene.start()
    scene.change(added("fresh"))
    await scene.settled()
    await until(lambda: scene.store.placements("v1") == {"fresh": (0, 0)})
    second = await scene.start()
    reader = await scene.start(places=False, serves=False)
    assert [await code(one, "fresh") for one in (first, second, reader)] == [[0, 0]] * 3
    assert scene.store.placements("v1") == {"fresh": (0, 0)}


async def test_a_reader_hears_of_a_code_as_soon_as_an_engine_has_found_it(scene: Scene) -> None:
    reader = await scene.start(places=False, serves=False)
    scene.change(added("fresh"))
    assert (await known(reader, "fresh"))["code"] is None
    await scene.start()
    assert await code(reader, "fresh") == [0, 0]


async def test_a_code_that_another_item_has_is_not_used_and_another_one_is_found(scene: Scene) -> None:
    scene.store.place("v1", {"of another replica": (0, 0)})
    engine = await scene.start()
    scene.change(added("fresh"))
    assert await code(engine, "fresh") == [1, 0]
    await until(lambda: not scene.board.status.unplaced)


async def test_a_revision_is_reported_only_when_its_added_items_count_in_every_engine(scene: Scene) -> None:
    slow = SlowPlacements(scene.store, "v2")
    scene.feeds = Feeds(Codes(slow), scene.board)
    scene.feeds.catalog.known.set()
    quick, other = await scene.start("v1"), await scene.start("v2")
    scene.change(added("fresh"))
    assert await code(quick, "fresh") == [0, 0]
    await asyncio.sleep(0.1)
    assert scene.board.status.catalog_revision == 0
    slow.gate.set()
    await scene.settled()
    assert (await known(other, "fresh"))["code"] == [0, 0]


async def test_the_code_of_a_removed_item_that_an_engine_never_had_holds_no_other_item_up(scene: Scene) -> None:
    first = await scene.start()
    scene.change(added("gone"))
    assert await code(first, "gone") == [0, 0]
    scene.change(ItemChange("gone", remove=True))
    await scene.settled()
    await first.drain(5.0)
    later = await scene.start()
    scene.change(added("fresh"))
    assert await code(later, "fresh") == [1, 0]


async def test_an_item_that_fits_nowhere_is_shown_and_holds_no_other_up(scene: Scene) -> None:
    scene.board.serving("v1")
    engine = await scene.start()
    scene.change(added("misfit-1"), added("fresh"))
    await until(lambda: scene.board.status.unplaced == {"misfit-1": "it fits nowhere"})
    assert await code(engine, "fresh") == [0, 0]
    scene.change(ItemChange("misfit-1", remove=True))
    await until(lambda: not scene.board.status.unplaced)


async def test_workers_are_told_how_many_fit_nowhere_but_only_the_newest_of_many(scene: Scene) -> None:
    scene.board.serving("v1")
    await scene.start()
    scene.change(*(added(f"misfit-{number}") for number in range(KEPT_UNPLACED)))
    scene.change(added("misfit-new"))
    await until(lambda: scene.board.status.unplaced_count == KEPT_UNPLACED + 1)
    assert len(scene.board.status.unplaced) == KEPT_UNPLACED
    assert "misfit-new" in scene.board.status.unplaced


async def test_an_item_that_an_engine_refuses_costs_no_other_its_change(scene: Scene) -> None:
    scene.board.serving("v1")
    engine = await scene.start()
    scene.change(added("fresh"), *(ItemChange(name, available=False) for name in ("item-1", "poison", "item-2")))
    await scene.settled()
    for item_id in ("item-1", "item-2"):
        await availability(engine, item_id, False)
    assert await code(engine, "fresh") == [0, 0]
    assert scene.board.status.unplaced == {"poison": "the model did not take its change"}


async def test_an_engine_that_dies_before_it_knows_everything_is_never_ready(scene: Scene) -> None:
    scene.change(ItemChange("item-1", available=False))
    socket = scene.folder / "dead.sock"
    spawn = starter(os.environ | {METRICS_FOLDER: str(scene.folder)}, None)
    engine = await Engine.start(Path("v1"), socket, spawn, LITTLE)
    await engine.child.kill()
    with pytest.raises(StartError):
        await scene.feeds.join(engine, places=True, serves=True)
    assert scene.board.status.catalog_revision == 0


async def test_an_engine_that_can_be_told_nothing_more_is_ended_and_nobody_waits_for_it(scene: Scene) -> None:
    unspeakable = ItemRecord("item-1", 1, attributes={"price": object()})
    scene.feeds.take(CatalogSighting(1, [unspeakable], whole=True))
    with pytest.raises(StartError):
        await scene.start()
    assert not scene.engines[0].child.running


async def test_what_a_whole_catalog_no_longer_holds_is_as_it_was_trained(scene: Scene) -> None:
    engine = await scene.start()
    scene.change(ItemChange("item-1", available=False), added("fresh"))
    await scene.settled()
    scene.feeds.take(CatalogSighting(1, [], whole=True, era="after a loss"))
    await availability(engine, "item-1", True)
    assert (await known(engine, "fresh"))["item"] == {"item_id": "fresh", "revision": 1}
    assert scene.feeds.catalog.records == {}


async def test_what_an_empty_redis_has_lost_stays_as_it_is_known(scene: Scene) -> None:
    engine = await scene.start()
    scene.change(ItemChange("item-1", available=False))
    await scene.settled()
    scene.feeds.take(CatalogSighting(0, [], whole=True))
    scene.change(ItemChange("item-2", available=False))
    await availability(engine, "item-2", False)
    await availability(engine, "item-1", False)
    assert set(scene.feeds.catalog.records) == {"item-1", "item-2"}


async def test_without_redis_an_engine_is_told_what_an_earlier_process_knew(scene: Scene) -> None:
    await scene.start()
    scene.change(ItemChange("item-1", available=False), added("fresh"))
    await until(lambda: bool(scene.feeds.as_last().codes))
    nowhere = Store.connect(f"unix://{scene.folder}/nobody", "prorec")
    later = Scene(nowhere, scene.folder / "later")
    later.folder.mkdir()
    later.feeds.recall(scene.feeds.as_last())
    engine = await later.start()
    await availability(engine, "item-1", False)
    assert await code(engine, "fresh") == [0, 0]
    await engine.drain(5.0)


async def test_a_large_catalog_comes_in_several_messages(scene: Scene) -> None:
    records = [ItemRecord(f"item-{number}", 1, available=False) for number in range(4500)]
    scene.feeds.take(CatalogSighting(1, records, whole=True))
    engine = await scene.start()
    answer = await known(engine, "item-4499")
    assert (answer["item"]["available"], answer["messages"]) == (False, [0, 0, 1])


def test_a_message_holds_few_large_records() -> None:
    large = [ItemRecord(str(number), 1, item={"text": "x" * 9_000_000}) for number in range(3)]
    assert [len(chunk) for chunk in chunks(large)] == [1, 1, 1]
    assert [len(chunk) for chunk in chunks([])] == []
