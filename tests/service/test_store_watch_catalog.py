"""Following the catalog, beside the deployment, through changes, outages, restarts and flushes."""

import os
import queue
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.catalog.records import ItemChange, ItemRecord
from service.embedded_redis import embedded_redis
from service.store import CatalogSighting, Deployment, Lost, Store, StoreDown
from service.store.catalog import LARGEST_PART
from tests.service.plain_artifact import plain_artifact
from tests.service.watching import NEVER_S, SOON_S, watching


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Store]:
    """A store on a server of its own, with the version a active."""
    with embedded_redis(tmp_path / "own") as url, closing(Store.connect(url, "prorec")) as store:
        store.publish(plain_artifact(tmp_path, "a"))
        store.activate("a")
        yield store


def off(store: Store, *ids: str) -> int:
    return store.change_items([ItemChange(item_id, available=False) for item_id in ids]).revision


def ids(sighting: CatalogSighting) -> list[str]:
    return [record.item_id for record in sighting.records]


def test_the_catalog_is_told_whole_first_and_then_as_it_changes(store: Store) -> None:
    off(store, "a", "b")
    with watching(store, NEVER_S) as seen:
        assert seen.get() is None
        first = seen.get_catalog()
        assert (first.revision, ids(first), first.whole) == (1, ["a", "b"], True)
        off(store, "c")
        change = seen.get_catalog()
        assert (change.revision, change.records, change.whole) == (2, [ItemRecord("c", 2, available=False)], False)
    assert seen.empty()


def test_an_empty_catalog_is_told_too(store: Store) -> None:
    with watching(store, NEVER_S) as seen:
        assert seen.get_catalog() == CatalogSighting(0, [], whole=True)
        off(store, "a")
        assert seen.get_catalog().revision == 1


def test_deployment_and_catalog_do_not_disturb_each_other(own_store: Store) -> None:
    with watching(own_store, NEVER_S) as seen:
        assert seen.get() == Deployment("a", 1)
        seen.get_catalog()
        off(own_store, "x")
        assert seen.get_catalog().revision == 1
        assert own_store.pin("a") == seen.get()
        off(own_store, "y")
        assert ids(seen.get_catalog()) == ["y"]
    assert seen.empty()
    assert seen.catalog.empty()


def test_no_change_is_missed_and_none_is_told_twice(store: Store) -> None:
    off(store, "before")  # after revision 0 everything is read, and what changes meanwhile is told again
    with watching(store, NEVER_S) as seen:
        assert seen.get_catalog().whole
        for number in range(100):
            off(store, f"item-{number}")
        told: list[str] = []
        revision = 1
        while revision < 101:
            sighting = seen.get_catalog()
            assert sighting.revision > revision
            told += ids(sighting)
            revision = sighting.revision
    assert told == [f"item-{number}" for number in range(100)]


def test_a_change_whose_announcement_got_lost_is_seen_by_polling(store: Store) -> None:
    with watching(store, SOON_S) as seen:
        seen.get_catalog()
        off(store, "a")
        seen.get_catalog()
        store.redis.client.hset(
            store.keys.items, "b", store.redis.client.hget(store.keys.items, "a").replace(b"1", b"2")
        )
        store.redis.client.zadd(store.keys.changed, {"b": 2})
        store.redis.client.hset(store.keys.catalog, "revision", 2)
        assert seen.get_catalog().revision == 2


def test_a_broken_subscription_is_made_again(own_store: Store) -> None:
    with watching(own_store, NEVER_S) as seen:
        seen.get_catalog()
        assert own_store.redis.client.client_kill_filter(_type="pubsub") == 1
        off(own_store, "x")
        assert ids(seen.get_catalog()) == ["x"]


def test_a_restart_of_redis_loses_no_change(own_store: Store) -> None:
    off(own_store, "x")
    with watching(own_store, SOON_S) as seen:
        assert (seen.get(), ids(seen.get_catalog())) == (Deployment("a", 1), ["x"])
        os.kill(own_store.redis.client.info("server")["process_id"], signal.SIGKILL)  # its keeper starts it again
        assert isinstance(seen.get(), StoreDown)
        assert seen.get() == Deployment("a", 1)
        off(own_store, "y")
        change = seen.get_catalog()
        assert (change.revision, ids(change), change.whole) == (2, ["y"], False)


def test_after_a_flush_what_is_known_stays_until_someone_changes_it(own_store: Store) -> None:
    for name in ("x", "y"):
        off(own_store, name)
    with watching(own_store, SOON_S) as seen:
        assert seen.get() == Deployment("a", 1)
        assert seen.get_catalog().revision == 2
        own_store.redis.client.flushall()
        assert seen.get() == Lost(Deployment("a", 1))
        assert seen.get_catalog() == CatalogSighting(0, [])
        with pytest.raises(queue.Empty):
            seen.get_catalog(timeout=4 * SOON_S)
        off(own_store, "z")
        again = seen.get_catalog()
        assert (again.revision, ids(again), again.whole) == (1, ["z"], True)


def test_a_catalog_that_outgrew_the_lost_one_unseen_is_told_whole(own_store: Store) -> None:
    """The revision alone would look like a few new changes."""
    off(own_store, "x")
    with watching(own_store, NEVER_S) as seen:
        assert seen.get_catalog().revision == 1
        with closing(Store.connect(own_store.redis.url, "other")) as other:
            for number in range(3):
                off(other, f"new-{number}")
            pipe = own_store.redis.client.pipeline()
            for ours, theirs in ((name, getattr(other.keys, name)) for name in ("items", "changed", "catalog")):
                pipe.rename(theirs, getattr(own_store.keys, ours))
            pipe.publish(own_store.keys.catalog_changes, "3")
            pipe.execute()
        again = seen.get_catalog()
        assert (again.revision, ids(again), again.whole) == (3, ["new-0", "new-1", "new-2"], True)


def test_whoever_was_away_too_long_is_told_everything(own_store: Store) -> None:
    off(own_store, "x")
    admin = own_store.redis.client
    with watching(own_store, SOON_S) as seen:
        seen.get_catalog()
        assert seen.get() == Deployment("a", 1)
        admin.config_set("requirepass", "hunter2")
        admin.client_kill_filter(_type="pubsub")
        with closing(Store.connect(own_store.redis.url.replace("unix://", "unix://:hunter2@"), "prorec")) as inside:
            assert isinstance(seen.get(), StoreDown)
            for first in range(0, LARGEST_PART + 5000, 5000):
                off(inside, *(f"item-{number}" for number in range(first, first + 5000)))
            inside.redis.client.config_set("requirepass", "")
        everything = seen.get_catalog()
        assert (everything.revision, everything.whole, len(everything.records)) == (4, True, LARGEST_PART + 5001)


def test_a_damaged_catalog_is_an_outage_that_hides_no_deployment(own_store: Store) -> None:
    off(own_store, "x")
    with watching(own_store, SOON_S) as seen:
        assert (seen.get(), seen.get_catalog().revision) == (Deployment("a", 1), 1)
        off(own_store, "y")
        assert seen.get_catalog().revision == 2
        with own_store.redis.client.pipeline() as at_once:
            at_once.hset(own_store.keys.items, "y", b"3 no record")
            at_once.zadd(own_store.keys.changed, {"y": 3})
            at_once.hset(own_store.keys.catalog, "revision", 3)
            at_once.execute()
        assert isinstance(seen.get(), StoreDown)
        pinned = own_store.pin("a")
        assert seen.get() == pinned
        assert isinstance(seen.get(), StoreDown), "it still is"
        own_store.redis.client.hset(own_store.keys.items, "y", own_store.redis.client.hget(own_store.keys.items, "x"))
        assert seen.get() == pinned
        assert seen.get_catalog().revision == 3
    assert seen.empty()
