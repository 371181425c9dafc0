"""Which version is active: compare-and-set, rollback, and calls whose answer got lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from service.errors import LostRace, NoPrevious, StoreCorrupt, UnknownVersion
from service.store import Deployment, Store
from service.store.deployment import KEPT_PREVIOUS
from tests.service.plain_artifact import plain_artifact
from tests.service.store_probes import losing_the_first_answer


@pytest.fixture
def versions(store: Store, tmp_path: Path) -> list[str]:
    """Three published versions."""
    names = ["a", "b", "c"]
    for name in names:
        store.publish(plain_artifact(tmp_path, name))
    return names


@pytest.mark.usefixtures("versions")
def test_every_change_counts_and_remembers_what_was_before(store: Store) -> None:
    assert store.deployment() is None
    assert store.activate("a") == Deployment("a", 1, ())
    assert store.activate("b") == Deployment("b", 2, ("a",))
    assert store.activate("c") == store.deployment() == Deployment("c", 3, ("b", "a"))


@pytest.mark.usefixtures("versions")
def test_a_version_is_named_once_among_the_previous_ones(store: Store) -> None:
    for name in ("a", "b", "a", "c", "a"):
        store.activate(name)
    assert store.deployment() == Deployment("a", 5, ("c", "b"))


@pytest.mark.usefixtures("versions")
def test_activating_what_is_active_changes_nothing(store: Store) -> None:
    store.activate("a")
    assert store.activate("a") == Deployment("a", 1, ())
    assert store.redis.client.xlen(store.keys.events) == 1


def test_an_unknown_version_is_not_activated(store: Store) -> None:
    with pytest.raises(UnknownVersion, match="'nope'"):
        store.activate("nope")
    assert store.deployment() is None


@pytest.mark.usefixtures("versions")
def test_a_condition_that_does_not_hold_changes_nothing_and_says_what_is(store: Store) -> None:
    with pytest.raises(LostRace, match="nothing is active") as none:
        store.activate("a", if_active="b")
    assert none.value.active is None
    store.activate("a", if_active=None)
    with pytest.raises(LostRace, match="version a is active") as lost:
        store.activate("b", if_active=None)
    assert lost.value.active == "a"
    with pytest.raises(LostRace, match="version a is active"):
        store.rollback(if_active="c")
    assert store.activate("b", if_active="a") == Deployment("b", 2, ("a",))


@pytest.mark.usefixtures("versions")
def test_of_concurrent_changes_on_one_condition_one_wins(store: Store) -> None:
    store.activate("a")
    start = threading.Barrier(8)

    def change(number: int) -> bool:
        start.wait()
        with suppress(LostRace):
            store.activate("bc"[number % 2], if_active="a")
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(change, range(8)))
    active = store.deployment()
    assert active is not None
    assert active.epoch == 2
    assert sum(won) == 1


@pytest.mark.usefixtures("versions")
def test_unconditional_concurrent_changes_all_count(store: Store) -> None:
    with ThreadPoolExecutor(3) as pool:
        epochs = {active.epoch for active in pool.map(store.activate, ["a", "b", "c"])}
    assert epochs == {1, 2, 3}


@pytest.mark.usefixtures("versions")
def test_rolling_back_walks_back_step_by_step(store: Store) -> None:
    for name in ("a", "b", "c"):
        store.activate(name)
    assert store.rollback() == Deployment("b", 4, ("a",), reason="rollback")
    assert store.rollback() == Deployment("a", 5, (), reason="rollback")
    with pytest.raises(NoPrevious):
        store.rollback()
    assert store.deployment() == Deployment("a", 5, (), reason="rollback")


def test_without_anything_active_there_is_nothing_to_roll_back(store: Store) -> None:
    with pytest.raises(NoPrevious):
        store.rollback()


@pytest.mark.usefixtures("versions")
def test_a_deleted_version_is_no_way_back(store: Store) -> None:
    for name in ("a", "b", "c"):
        store.activate(name)
    store.delete("b")
    assert store.deployment() == Deployment("c", 4, ("a",), reason="delete b")
    assert store.rollback().version == "a"


def test_only_so_many_previous_versions_are_remembered(store: Store, tmp_path: Path) -> None:
    names = [f"v{number}" for number in range(KEPT_PREVIOUS + 3)]
    for name in names:
        store.publish(plain_artifact(tmp_path, name))
        store.activate(name)
    active = store.deployment()
    assert active is not None
    assert active.previous == tuple(reversed(names[2:-1]))


@pytest.mark.usefixtures("versions")
def test_changes_are_written_to_the_events(store: Store) -> None:
    store.activate("a")
    store.activate("b")
    store.rollback()
    told = [(e.deployment.reason, e.from_version, e.deployment.version, e.deployment.epoch) for e in store.events()]
    assert told == [("rollback", "b", "a", 3), ("activate", "a", "b", 2), ("activate", None, "a", 1)]
    assert store.events(limit=1) == store.events()[:1]


def test_a_damaged_active_version_is_told(store: Store) -> None:
    store.redis.client.hset(store.keys.active, "version", "a")
    with pytest.raises(StoreCorrupt):
        store.deployment()


@pytest.mark.usefixtures("versions")
def test_a_change_whose_answer_got_lost_is_not_made_twice(store: Store) -> None:
    """redis-py repeats a command when the connection breaks before the answer; the first one was carried out."""
    for name in ("a", "b", "c"):
        store.activate(name)
    with losing_the_first_answer(store) as unlucky:
        assert unlucky.rollback() == Deployment("b", 4, ("a",), reason="rollback")
    with losing_the_first_answer(store) as unlucky:
        assert unlucky.activate("c", if_active="b") == Deployment("c", 5, ("b", "a"))


@pytest.mark.usefixtures("store")
def test_a_publish_whose_answer_got_lost_is_published(store: Store, tmp_path: Path) -> None:
    with losing_the_first_answer(store) as unlucky:
        unlucky.publish(plain_artifact(tmp_path))
    assert store.fetch("v1", tmp_path / "cache").manifest.model_version == "v1"
