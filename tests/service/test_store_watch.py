"""Following the active version through changes, restarts and flushes."""

import os
import queue
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.embedded_redis import embedded_redis
from service.store import Deployment, Lost, Store, StoreDown
from tests.service.plain_artifact import plain_artifact
from tests.service.watching import NEVER_S, SOON_S, watching


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Store]:
    """A store on a server of its own, with the versions a and b."""
    with embedded_redis(tmp_path / "own") as url, closing(Store.connect(url, "prorec")) as store:
        for version in ("a", "b"):
            store.publish(plain_artifact(tmp_path, version))
        yield store


def test_a_change_is_seen_when_it_is_announced(store: Store, tmp_path: Path) -> None:
    for version in ("a", "b"):
        store.publish(plain_artifact(tmp_path, version))
    with watching(store, NEVER_S) as seen:
        assert seen.get() is None
        store.activate("a")
        assert seen.get() == Deployment("a", 1, ())
        store.activate("b")
        assert seen.get() == Deployment("b", 2, ("a",))


def test_a_change_whose_announcement_got_lost_is_seen_by_polling(store: Store) -> None:
    with watching(store, SOON_S) as seen:
        assert seen.get() is None
        store.redis.client.hset(store.keys.active, mapping={"version": "a", "epoch": 7, "previous": "b"})
        assert seen.get() == Deployment("a", 7, ("b",))


def test_a_broken_subscription_is_made_again(own_store: Store) -> None:
    with watching(own_store, NEVER_S) as seen:
        assert seen.get() is None
        assert own_store.redis.client.client_kill_filter(_type="pubsub") == 1
        own_store.activate("a")
        assert seen.get() == Deployment("a", 1, ())


def test_nothing_is_told_twice(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path, "a"))
    with watching(store, SOON_S) as seen:
        assert seen.get() is None
        for _ in range(3):
            store.redis.client.publish(store.keys.changes, "noise")
        store.activate("a")
        assert seen.get() == Deployment("a", 1, ())
    assert seen.empty()


def test_a_restart_of_redis_is_an_outage_with_a_happy_end(own_store: Store) -> None:
    active = own_store.activate("a")
    with watching(own_store, SOON_S) as seen:
        assert seen.get() == active
        os.kill(own_store.redis.client.info("server")["process_id"], signal.SIGKILL)  # its keeper starts it again
        assert isinstance(seen.get(), StoreDown)
        assert seen.get() == active
        assert own_store.activate("b") == seen.get() == Deployment("b", 2, ("a",))


def test_a_flush_is_a_loss_and_not_the_absence_of_a_model(own_store: Store, tmp_path: Path) -> None:
    active = own_store.activate("a")
    with watching(own_store, SOON_S) as seen:
        assert seen.get() == active
        own_store.redis.client.flushall()
        assert seen.get() == Lost(active)
        own_store.publish(plain_artifact(tmp_path / "again", "a"))
        own_store.activate("a")
        assert seen.get() == active


def test_a_redis_that_was_never_there_is_told_once(tmp_path: Path) -> None:
    with closing(Store.connect(f"unix://{tmp_path}/nowhere", "prorec")) as store, watching(store, SOON_S) as seen:
        down = seen.get()
        assert isinstance(down, StoreDown)
        assert f"unix://{tmp_path}/nowhere does not answer" in down.reason
        with pytest.raises(queue.Empty):
            seen.get(timeout=4 * SOON_S)


def test_a_redis_that_comes_late_is_found(own_store: Store) -> None:
    active = own_store.activate("a")
    admin = own_store.redis.client
    admin.ping()  # signed in before there is a password
    admin.config_set("requirepass", "hunter2")
    with closing(Store.connect(own_store.redis.url, "prorec")) as outside, watching(outside, SOON_S) as seen:
        assert isinstance(seen.get(), StoreDown)
        admin.config_set("requirepass", "")
        assert seen.get() == active


def test_damage_is_an_outage_too(store: Store) -> None:
    with watching(store, SOON_S) as seen:
        assert seen.get() is None
        store.redis.client.set(store.keys.active, "no hash")
        assert isinstance(seen.get(), StoreDown)
        with store.redis.client.pipeline() as at_once:
            at_once.delete(store.keys.active)
            at_once.hset(store.keys.active, "version", "a")
            at_once.execute()
        with pytest.raises(queue.Empty):  # another reason, but the same outage
            seen.get(timeout=4 * SOON_S)
        store.redis.client.delete(store.keys.active)
        assert seen.get() is None


def test_a_stop_ends_a_long_wait(store: Store) -> None:
    with watching(store, NEVER_S) as seen:
        assert seen.get() is None
