"""Where the folders of versions come from, and what of the cache makes room for them."""

import itertools
from pathlib import Path

import pytest

from models.artifact import MANIFEST, Artifact
from service.errors import StoreCorrupt, UnknownVersion
from service.store import Store
from service.supervisor.board import Board
from service.supervisor.catalog import Feeds
from service.supervisor.codes import Codes
from service.supervisor.plant import Plant
from service.supervisor.processes import Child
from tests.service.plain_artifact import plain_artifact
from tests.service.store_probes import chunks_before, cut_off

pytestmark = pytest.mark.anyio


async def nothing_is_started(*_: object, **__: object) -> Child:
    raise AssertionError


def plant_of(store: Store, folder: Path, *in_use: str) -> Plant:
    feeds = Feeds(Codes(store), Board())
    return Plant(store, folder / "cache", folder, nothing_is_started, feeds, lambda: itertools.chain(in_use))


@pytest.fixture
def full(store: Store, tmp_path: Path) -> Store:
    """v1 to v3 are published."""
    for version in ("v1", "v2", "v3"):
        store.publish(plain_artifact(tmp_path, version))
    return store


async def test_what_nobody_needs_goes_before_a_version_is_fetched(
    full: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a disk that is full of it would keep every later version out."""
    plant, cache = plant_of(full, tmp_path, "v2"), tmp_path / "cache"
    for version in ("v1", "v2"):
        full.fetch(version, cache)
    there: list[str] = []
    fetch = Store.fetch

    def looked(store: Store, version: str, folder: Path) -> Artifact:
        there.extend(sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}")))
        return fetch(store, version, folder)

    monkeypatch.setattr(Store, "fetch", looked)
    assert await plant.fetch("v3") == cache / "v3"
    assert there == ["v2"]


async def test_a_broken_fetch_goes_on_where_it_was(full: Store, tmp_path: Path) -> None:
    plant = plant_of(full, tmp_path)
    with cut_off(full, "v2", "search.weights"), pytest.raises(StoreCorrupt):
        await plant.fetch("v2")
    full.redis.client.delete(*chunks_before(full, "v2", "search.weights"))
    assert (await plant.fetch("v2")).name == "v2"


async def test_what_a_broken_fetch_left_goes_once_nobody_needs_its_version(full: Store, tmp_path: Path) -> None:
    plant = plant_of(full, tmp_path)
    with cut_off(full, "v2", "search.weights"), pytest.raises(StoreCorrupt):
        await plant.fetch("v2")
    await plant.fetch("v3")
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == ["v3"]


async def test_a_version_that_redis_has_lost_comes_from_the_cache(full: Store, tmp_path: Path) -> None:
    plant = plant_of(full, tmp_path)
    folder = await plant.fetch("v1")
    full.delete("v1")
    assert await plant.fetch("v1") == folder
    with pytest.raises(UnknownVersion):
        await plant.fetch("v9")
