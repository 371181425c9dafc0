"""What a replica takes for the catalog when Redis does not tell it."""

import socket
from pathlib import Path

import pytest

from service.catalog.records import ItemRecord
from service.settings import Settings
from service.store import Deployment, Store, StoreDown
from service.supervisor.announce import Announce
from service.supervisor.last import LastCatalog, remember_catalog
from service.supervisor.replica import Replica

pytestmark = pytest.mark.anyio

DAMAGED = StoreDown("what Redis holds about an item of the catalog is damaged")


def replica(store: Store, folder: Path) -> Replica:
    """It has found the deployment, and starts no process."""
    settings = Settings(redis_url=store.url, data_dir=folder)
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
    hidden = ItemRecord("item-1", 1, available=False)
    remember_catalog(tmp_path / "last", LastCatalog(1, "era", [hidden]))
    again = replica(store, tmp_path)
    again._on_sighting(DAMAGED)
    assert again._feeds.catalog.known.is_set()
    assert again._feeds.catalog.records == {"item-1": hidden}
