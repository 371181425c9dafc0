"""The deployment beyond one active version: depth of rollbacks, pins, canary, shadow, and why things changed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from service.errors import BadRequest, LostRace, NoPrevious, StoreError, UnknownVersion, VersionActive, VersionPinned
from service.store import KEEP, Canary, Deployment, Store
from tests.service.plain_artifact import plain_artifact
from tests.service.store_probes import losing_the_first_answer

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def walked(store: Store, tmp_path: Path) -> Store:
    """a, b, c and d are published and were active in that order; d is."""
    for name in NAMES:
        store.publish(plain_artifact(tmp_path, name))
        store.activate(name)
    return store


def test_a_rollback_of_several_steps_is_one_change(walked: Store) -> None:
    assert walked.rollback(steps=3) == Deployment("a", 5, (), reason="rollback")
    assert walked.events()[0].from_version == "d"


def test_a_rollback_can_name_where_to(walked: Store) -> None:
    assert walked.rollback(to="b") == Deployment("b", 5, ("a",), reason="rollback")
    assert walked.rollback(to="b").epoch == 5, "it is there already"


def test_steps_count_only_versions_that_are_still_published(walked: Store) -> None:
    walked.redis.client.hdel(walked.keys.versions, "c")  # as no program of ours does it
    assert walked.rollback(steps=2).version == "a"


def test_a_rollback_further_than_there_is_changes_nothing(walked: Store) -> None:
    with pytest.raises(NoPrevious, match="only 3 earlier versions are left"):
        walked.rollback(steps=4)
    with pytest.raises(BadRequest) as wrong:
        walked.rollback(steps=0)
    assert wrong.value.errors[0]["pointer"] == "/steps"
    assert walked.deployment() == Deployment("d", 4, ("c", "b", "a"))


def test_a_rollback_to_what_never_served_is_refused(walked: Store, tmp_path: Path) -> None:
    walked.publish(plain_artifact(tmp_path, "new"))
    with pytest.raises(NoPrevious, match="new is not among those that served before: c, b, a"):
        walked.rollback(to="new")
    with pytest.raises(UnknownVersion, match="'nope'"):
        walked.rollback(to="nope")


def test_an_automatic_rollback_tells_its_reason_and_undoes_no_other_change(walked: Store) -> None:
    reason = "automatic rollback: 12 % of the answers of d failed"
    assert walked.rollback(if_active="d", reason=reason).version == "c"
    with pytest.raises(LostRace):  # another replica that found the same
        walked.rollback(if_active="d", reason=reason)
    newest = walked.events()[0]
    assert (newest.automatic, newest.from_version, newest.deployment.reason) == (True, "d", reason)
    assert not walked.events()[1].automatic
    found = walked.deployment()
    assert found is not None
    assert found.reason == reason


def test_pins_add_up_and_end_one_by_one(walked: Store) -> None:
    assert walked.pin("a").pinned == ("a",)
    assert walked.pin("b") == Deployment("d", 6, ("c", "b", "a"), pinned=("a", "b"), reason="load")
    assert walked.pin("a").epoch == 6, "it is pinned already"
    assert walked.unpin("a") == Deployment("d", 7, ("c", "b", "a"), pinned=("b",), reason="unload")
    assert walked.unpin("c").epoch == 7, "it was not pinned"


def test_a_version_can_be_pinned_before_any_is_active(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path, "a"))
    assert store.pin("a") == store.deployment() == Deployment(None, 1, pinned=("a",), reason="load")
    assert store.activate("a", if_active=None) == Deployment("a", 2, pinned=("a",))


def test_traffic_is_given_kept_and_ended(walked: Store) -> None:
    canary = Canary("c", 12.5)
    given = walked.set_traffic(canary, "b")
    assert given == walked.deployment()
    assert (given.epoch, given.canary, given.shadow, given.reason) == (5, canary, "b", "traffic")
    assert walked.set_traffic(canary, "b").epoch == 5, "nothing has changed"
    assert walked.set_traffic(KEEP, None).canary == canary
    assert walked.set_traffic(None, KEEP) == Deployment("d", 7, ("c", "b", "a"), reason="traffic")
    assert [event.deployment.canary for event in walked.events(3)] == [None, canary, canary]


def test_a_version_that_becomes_active_has_no_other_role(walked: Store) -> None:
    walked.set_traffic(Canary("c", 50.0), "b")
    assert (found := walked.activate("b")).shadow is None
    assert found.canary == Canary("c", 50.0)
    assert walked.rollback(to="d").canary == Canary("c", 50.0)
    assert walked.rollback(to="c").canary is None


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.5, float("nan"), float("inf")])
def test_a_share_must_be_a_percentage(percent: float, walked: Store) -> None:
    with pytest.raises(BadRequest) as wrong:
        walked.set_traffic(Canary("c", percent), None)
    assert [error["pointer"] for error in wrong.value.errors] == ["/canary/percent"]
    assert walked.set_traffic(Canary("c", 100.0), None).canary == Canary("c", 100.0)


@pytest.mark.parametrize(
    ("canary", "shadow", "pointer"),
    [("d", None, "/canary/version"), (None, "d", "/shadow"), ("c", "c", "/shadow")],
)
def test_a_version_has_one_role_for_traffic(
    canary: str | None, shadow: str | None, pointer: str, walked: Store
) -> None:
    with pytest.raises(BadRequest) as wrong:
        walked.set_traffic(Canary(canary, 10.0) if canary else None, shadow)
    assert [error["pointer"] for error in wrong.value.errors] == [pointer]
    assert walked.deployment() == Deployment("d", 4, ("c", "b", "a"))


def test_traffic_goes_to_published_versions_only(walked: Store) -> None:
    for canary, shadow in ((Canary("nope", 10.0), None), (None, "nope"), (Canary("ü", 10.0), None)):
        with pytest.raises(UnknownVersion):
            walked.set_traffic(canary, shadow)
    with pytest.raises(UnknownVersion):
        walked.pin("nope")
    with pytest.raises(UnknownVersion):
        walked.unpin("nope")


def test_without_an_active_version_there_is_no_traffic_to_share(store: Store, tmp_path: Path) -> None:
    store.publish(plain_artifact(tmp_path, "a"))
    with pytest.raises(BadRequest, match="no version is active"):
        store.set_traffic(Canary("a", 10.0), None)
    assert store.deployment() is None


def test_a_version_in_any_role_is_not_deleted(walked: Store) -> None:
    walked.set_traffic(Canary("c", 10.0), "b")
    walked.pin("a")
    for name, reason in (("c", "the canary"), ("b", "the shadow"), ("a", "loaded for an operator")):
        with pytest.raises(VersionPinned, match=reason):
            walked.delete(name)
    with pytest.raises(VersionActive):
        walked.delete("d")
    walked.unpin("a")
    walked.delete("a")
    assert walked.events()[0].deployment.reason == "delete a"


def test_what_an_earlier_program_wrote_is_read_and_changed(walked: Store) -> None:
    client, keys = walked.redis.client, walked.keys
    client.delete(keys.active, keys.events)
    client.hset(keys.active, mapping={"version": "b", "epoch": "7", "previous": "a", "token": "0" * 32})
    client.xadd(keys.events, {"event": "rollback", "version": "b", "from": "c", "epoch": "7"})
    assert walked.deployment() == Deployment("b", 7, ("a",))
    (event,) = walked.events()
    assert (event.deployment.reason, event.deployment.version, event.from_version) == ("rollback", "b", "c")
    assert event.deployment.at > 1e9
    assert walked.pin("c") == Deployment("b", 8, ("a",), pinned=("c",), reason="load")


def test_a_repeated_call_finds_its_change_though_another_came_between(walked: Store) -> None:
    """The relay breaks the connection after the rollback was made; before it is asked again, someone pins."""
    with losing_the_first_answer(walked, meanwhile=lambda: walked.pin("a")) as unlucky:
        assert unlucky.rollback().version == "c"
    found = walked.deployment()
    assert found is not None
    assert (found.version, found.pinned, found.epoch) == ("c", ("a",), 6)


def test_changes_from_everywhere_all_count_once(walked: Store) -> None:
    """Every change that was made has an epoch and an event of its own, and nothing ends in two roles."""
    start, changes = threading.Barrier(6), threading.Semaphore(0)
    moves: list[Callable[[], Deployment]] = [
        lambda: walked.activate("a"),
        lambda: walked.activate("b"),
        lambda: walked.rollback(),
        lambda: walked.set_traffic(Canary("c", 10.0), KEEP),
        lambda: walked.set_traffic(KEEP, "b"),
        lambda: walked.pin("a") if changes.acquire(blocking=False) else walked.unpin("a"),
    ]

    def work(move: Callable[[], Deployment]) -> None:
        start.wait()
        for _ in range(20):
            changes.release()
            with suppress(StoreError, BadRequest):
                move()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, moves))
    events = walked.events(limit=1000)
    assert [event.deployment.epoch for event in events] == list(range(len(events), 0, -1))
    for now in (event.deployment for event in events):
        in_traffic = [now.version, now.shadow, now.canary and now.canary.version]
        assert len({name for name in in_traffic if name}) == len([name for name in in_traffic if name])
