"""Replicas as they report themselves, and waiting until they follow."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from service.errors import NotFollowed
from service.store import ReplicaReport, Store
from tests.service.plain_artifact import plain_artifact

WAIT_S = 20.0


@pytest.fixture
def active(store: Store, tmp_path: Path) -> Store:
    """v1 and v2 are there, v1 is active."""
    for version in ("v1", "v2"):
        store.publish(plain_artifact(tmp_path, version))
    store.activate("v1")
    return store


def says(store: Store, replica: str, serving: str | None, epoch: int, **values: object) -> None:
    report = ReplicaReport(replica, f"http://{replica}:8000", epoch, serving)
    store.report(msgspec.structs.replace(report, **values))


def age(store: Store, replica: str, seconds: float) -> None:
    """Makes the last report of a replica that much older."""
    at, _, body = store.redis.client.hget(store.keys.replicas, replica).partition(b" ")
    store.redis.client.hset(store.keys.replicas, replica, f"{float(at) - seconds:.6f} ".encode() + body)


def test_a_report_comes_back_with_the_time_of_redis(store: Store) -> None:
    report = ReplicaReport(
        "r-1", "http://a:1", 4, "v1", ("v1", "v2"), 17, {"v1": "active", "v3": "failed"}, draining=True, at=1.0
    )
    store.report(report)
    (found,) = store.replicas()
    seconds, _ = store.redis.client.time()
    assert msgspec.structs.replace(found, at=1.0) == report
    assert abs(found.at - seconds) < WAIT_S


def test_the_newest_report_of_a_replica_counts(store: Store) -> None:
    says(store, "b", "v1", 1)
    says(store, "a", "v1", 1)
    says(store, "b", "v2", 2)
    assert [(one.replica, one.serving) for one in store.replicas()] == [("a", "v1"), ("b", "v2")]


def test_a_report_from_before_the_clock_of_redis_went_back_is_gone(store: Store) -> None:
    says(store, "dead", "v1", 1)
    age(store, "dead", -3600.0)
    assert store.replicas() == []
    says(store, "alive", "v1", 1)
    assert [one.replica for one in store.replicas()] == ["alive"]
    assert not store.redis.client.hexists(store.keys.replicas, "dead")


def test_who_is_silent_is_gone_and_then_forgotten(store: Store) -> None:
    for replica in ("a", "b", "c"):
        says(store, replica, "v1", 1)
    age(store, "b", 6.0)
    age(store, "c", 12.0)
    assert [one.replica for one in store.replicas()] == ["a"]
    says(store, "a", "v1", 1)
    assert set(store.redis.client.hkeys(store.keys.replicas)) == {b"a", b"b"}


def test_who_leaves_is_gone_at_once(store: Store) -> None:
    says(store, "a", "v1", 1)
    store.leave("a")
    assert store.replicas() == []


def test_what_another_program_reported_is_passed_over(store: Store) -> None:
    says(store, "a", "v1", 1)
    store.redis.client.hset(store.keys.replicas, "b", b"nonsense")
    says(store, "c", "v1", 1)
    assert [one.replica for one in store.replicas()] == ["a", "c"]


def waiting(store: Store, version: str, then: Callable[[], object]) -> list[str]:
    """Replicas that `wait_until_active` returns, where `then` happens while it waits."""
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(store.wait_until_active, version, WAIT_S)
        threading.Event().wait(0.2)
        assert not waits.done()
        then()
        return [report.replica for report in waits.result()]


def test_waiting_ends_when_every_replica_serves_the_version(active: Store) -> None:
    epoch = active.activate("v2").epoch
    says(active, "a", "v2", epoch)
    says(active, "b", "v1", epoch)
    assert waiting(active, "v2", lambda: says(active, "b", "v2", epoch)) == ["a", "b"]
    assert len(active.wait_until_active("v2", 0.0)) == 2


def test_a_report_from_before_the_change_does_not_count(active: Store) -> None:
    active.activate("v2")
    says(active, "a", "v1", 1)
    epoch = active.activate("v1").epoch
    assert waiting(active, "v1", lambda: says(active, "a", "v1", epoch)) == ["a"]


def test_replicas_that_drain_or_die_are_not_waited_for(active: Store) -> None:
    epoch = active.activate("v2").epoch
    says(active, "a", "v2", epoch)
    says(active, "b", "v1", 1, draining=True)
    says(active, "c", "v1", 1)
    assert waiting(active, "v2", lambda: age(active, "c", 6.0)) == ["a"]


def test_laggards_are_named_with_what_they_do(active: Store) -> None:
    epoch = active.activate("v2").epoch
    says(active, "a", "v2", epoch)
    says(active, "b", "v1", epoch, states={"v2": "loading"})
    with pytest.raises(
        NotFollowed, match=r"1 of 2 replicas .* v2 yet: b at http://b:8000: loading, v1 answers"
    ) as late:
        active.wait_until_active("v2", 0.3)
    assert late.value.members == {"laggards": ["b"]}


def test_waiting_ends_when_the_version_is_not_active_any_more(active: Store) -> None:
    active.activate("v2")
    says(active, "a", "v1", 2)
    with pytest.raises(NotFollowed, match=r"version v1 is active now \(automatic rollback: it fails\)"):
        waiting(active, "v2", lambda: active.rollback(if_active="v2", reason="automatic rollback: it fails"))


@pytest.mark.parametrize("state", ["none", "draining"])
def test_without_any_replica_nobody_follows(active: Store, state: str) -> None:
    if state == "draining":
        says(active, "a", "v1", 1, draining=True)
    with pytest.raises(NotFollowed, match=r"^no replica is running, so none answers with version v1 yet") as alone:
        active.wait_until_active("v1", 0.1)
    assert alone.value.members == {"laggards": []}


def test_who_waits_for_long_is_told_soon_that_nobody_is_there(active: Store) -> None:
    with pytest.raises(NotFollowed, match="no replica is running"):
        active.wait_until_active("v1", 3600.0)


def test_a_replica_that_comes_back_in_time_is_waited_for(active: Store) -> None:
    assert waiting(active, "v1", lambda: says(active, "a", "v1", 1)) == ["a"]
