"""What a replica takes for the catalog when Redis does not tell it."""

import socket
from pathlib import Path

import pytest

from service.catalog.records import ItemChange, ItemRecord
from service.settings import Settings
from service.store import Deployment, Store, StoreDown
from service.supervisor.announce import Announce
from service.supervisor.last import CATALOG_FILE, LastCatalog, remember, remember_catalog
from service.supervisor.replica import Replica

pytestmark = pytest.mark.anyio

HIDDEN = ItemRecord("item-1", 1, available=False)
DAMAGED = StoreDown("what Redis holds about an item of the catalog is damaged")


def replica(store: Store, folder: Path) -> Replica:
    """It has found the deployment, and starts no process."""
    settings = Settings(redis_url=store.redis.url, data_dir=folder)
    with socket.socket() as listener:
        made = Replica(settings, listener, store, folder, folder / "last", None, Announce("http://here", "here"))
    made._deployment = Deployment("v1", 1)
    return made


async def test_where_nothing_was_served_engines_wait_until_redis_can_tell_what_is_hidden(
    store: Store, tmp_path: Path
) -> None:
    fresh = replica(store, tmp_path)
    fresh._on_sighting(DAMAGED)
    assert not fresh._feeds.catalog.known.is_set()
    fresh._on_sighting(store.catalog_changes(0))
    assert fresh._feeds.catalog.known.is_set()


async def test_where_something_was_served_what_was_hidden_stays_so(store: Store, tmp_path: Path) -> None:
    remember_catalog(tmp_path / "last", LastCatalog(1, "era", [HIDDEN]))
    again = replica(store, tmp_path)
    again._on_sighting(DAMAGED)
    assert again._feeds.catalog.known.is_set()
    assert again._feeds.catalog.records == {"item-1": HIDDEN}


def damaged(store: Store, folder: Path) -> Replica:
    """It has served, and what was hidden then cannot be read."""
    remember(folder / "last", Deployment("v1", 1))
    (folder / "last" / CATALOG_FILE).write_bytes(b"damaged")
    return replica(store, folder)


async def test_where_what_was_hidden_is_damaged_engines_wait_until_redis_tells_it(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = damaged(store, tmp_path)
    for _ in range(2):
        again._on_sighting(StoreDown("Redis is off"))
    assert not again._feeds.catalog.known.is_set()
    assert "what is hidden is not known" in (again._board.status.catalog_unknown or "")
    assert [record.message for record in caplog.records if "what is hidden" in record.message] == [
        f"{again._board.status.catalog_unknown}; nothing is served until Redis tells"
    ]
    store.change_items([ItemChange("item-1", available=False)])
    again._on_sighting(store.catalog_changes(0))
    assert again._feeds.catalog.records == {"item-1": HIDDEN}
    assert again._feeds.catalog.known.is_set()
    assert again._board.status.catalog_unknown is None


async def test_where_what_was_hidden_is_damaged_a_redis_without_a_catalog_has_lost_it(
    store: Store, tmp_path: Path
) -> None:
    again = damaged(store, tmp_path)
    again._on_sighting(store.catalog_changes(0))
    assert not again._feeds.catalog.known.is_set()
    assert again._board.status.catalog_lost
    store.restore_catalog([], 1)
    again._on_sighting(store.catalog_changes(0))
    assert again._feeds.catalog.known.is_set()
    assert not again._board.status.catalog_lost


async def test_who_takes_the_damaged_file_away_says_that_nothing_is_hidden(store: Store, tmp_path: Path) -> None:
    again = damaged(store, tmp_path)
    again._on_sighting(StoreDown("Redis is off"))
    (tmp_path / "last" / CATALOG_FILE).unlink()
    again._on_sighting(store.catalog_changes(0))
    assert again._feeds.catalog.known.is_set()
    assert again._board.status.catalog_unknown is None
