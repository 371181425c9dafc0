"""A version that answers badly is sent back, in a real Redis, and no other is."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.api.control import Counts
from service.store import Deployment, Store
from service.supervisor.probation import Limits, Probation
from tests.service.plain_artifact import plain_artifact

from .waiting import until

pytestmark = pytest.mark.anyio

LIMITS = Limits(window_s=600.0, error_percent=5.0, exhausted_percent=50.0, min_requests=100)


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Store:
    for version in ("v1", "v2"):
        store.publish(plain_artifact(tmp_path, version))
    return store


def serving(store: Store, limits: Limits = LIMITS) -> Probation:
    """A replica that serves v1."""
    probation = Probation(limits, lambda version, reason: store.rollback(if_active=version, reason=reason))
    switch(probation, store.activate("v1"))
    return probation


def watching(store: Store, limits: Limits = LIMITS, *, before: Sequence[Counts] = ()) -> Probation:
    """A replica that has served v1, with what workers reported then, and has just switched to v2."""
    probation = serving(store, limits)
    for counts in before:
        probation.count(counts)
    switch(probation, store.activate("v2"))
    return probation


def switch(probation: Probation, deployment: Deployment) -> None:
    assert deployment.version is not None
    probation.expect(deployment)
    probation.switched(deployment.version)


async def rolled_back(store: Store) -> Deployment:
    await until(lambda: store.deployment() is not None and found(store).version == "v1")
    return found(store)


async def nothing_is_sent_back(caplog: pytest.LogCaptureFixture) -> None:
    """It would be logged before anything is asked of Redis."""
    await asyncio.sleep(0)
    assert caplog.messages == []


def found(store: Store) -> Deployment:
    deployment = store.deployment()
    assert deployment is not None
    return deployment


async def test_too_many_errors_send_a_new_version_back(published: Store) -> None:
    probation = watching(published)
    probation.count(Counts("v2", 75, 5, 0))
    probation.count(Counts("v2", 75, 6, 0))
    reason = "automatic rollback: 7.3 % of 150 answers of v2 were errors, the limit is 5 %"
    assert (await rolled_back(published)).reason == reason


async def test_too_many_short_answers_send_a_new_version_back(published: Store) -> None:
    probation = watching(published)
    probation.count(Counts("v2", 100, 0, 51))
    share = "51.0 % of 100 answers of v2 were short of items and 0.0 % under the version before"
    assert f"{share}, the limit is 50 % more" in (await rolled_back(published)).reason


async def test_a_shop_of_narrow_filters_can_have_a_new_version(
    published: Store, caplog: pytest.LogCaptureFixture
) -> None:
    probation = serving(published)
    probation.count(Counts("v1", 200, 0, 120))
    probation.expect(published.activate("v2"))
    probation.count(Counts("v1", 10, 0, 0))  # on its way out
    probation.switched("v2")
    probation.count(Counts("v2", 50, 0, 50))
    probation.count(Counts("v2", 50, 0, 50))
    await nothing_is_sent_back(caplog)
    assert found(published).version == "v2"


@pytest.mark.parametrize(
    "before",
    [
        [Counts("v1", 5, 0, 5)],  # too few to be trusted
        [Counts("v1", 10_000, 0, short) for short in (10_000, 10_000, 0, 0, 0, 0, 0)],  # long ago
    ],
)
async def test_what_is_usual_is_what_many_answers_said_last(published: Store, before: list[Counts]) -> None:
    probation = watching(published, before=before)
    probation.count(Counts("v2", 100, 0, 60))
    assert "60.0 %" in (await rolled_back(published)).reason


async def test_only_the_version_before_says_what_is_usual(published: Store) -> None:
    probation = watching(published, before=[Counts("v1", 200, 0, 120)])
    probation.count(Counts("v2", 200, 0, 0))
    switch(probation, published.activate("v1"))
    probation.count(Counts("v1", 200, 0, 0))
    switch(probation, published.activate("v2"))
    probation.count(Counts("v2", 100, 0, 60))
    assert "and 0.0 % under the version before" in (await rolled_back(published)).reason


async def test_a_version_that_was_sent_back_does_not_say_what_is_usual(published: Store) -> None:
    probation = watching(published, before=[Counts("v1", 200, 0, 0)])
    probation.count(Counts("v2", 100, 0, 100))
    switch(probation, await rolled_back(published))
    switch(probation, published.activate("v2"))
    probation.count(Counts("v2", 100, 0, 60))
    assert "and 0.0 % under the version before" in (await rolled_back(published)).reason


async def test_an_engine_that_keeps_ending_sends_a_new_version_back(published: Store) -> None:
    probation = watching(published)
    for _ in range(3):
        probation.died("v2")
    assert "ended 3 times" in (await rolled_back(published)).reason


@pytest.mark.parametrize(
    "counts",
    [
        Counts("v2", 99, 99, 99),  # too few to judge
        Counts("v2", 100, 5, 50),  # at the limits, not above
        Counts("v1", 500, 500, 0),  # another version's
    ],
)
async def test_nothing_else_sends_it_back(published: Store, counts: Counts, caplog: pytest.LogCaptureFixture) -> None:
    probation = watching(published)
    probation.count(counts)
    probation.died("v1")
    probation.died("v2")
    probation.died("v2")
    await nothing_is_sent_back(caplog)
    assert found(published).version == "v2"


async def test_without_a_window_nothing_is_watched(published: Store, caplog: pytest.LogCaptureFixture) -> None:
    probation = watching(published, Limits(0.0, 5.0, 50.0, 100))
    probation.count(Counts("v2", 100, 100, 100))
    await nothing_is_sent_back(caplog)


async def test_after_a_rollback_what_it_went_back_to_is_not_watched(
    published: Store, caplog: pytest.LogCaptureFixture
) -> None:
    probation = watching(published)
    probation.expect(published.rollback())
    probation.switched("v1")
    probation.count(Counts("v1", 100, 100, 0))
    await nothing_is_sent_back(caplog)


async def test_a_version_that_served_when_the_replica_started_is_not_watched(
    published: Store, caplog: pytest.LogCaptureFixture
) -> None:
    probation = Probation(LIMITS, lambda version, _: published.rollback(if_active=version))
    probation.expect(published.activate("v1"))
    probation.switched("v1")
    probation.count(Counts("v1", 100, 100, 0))
    await nothing_is_sent_back(caplog)


async def test_a_change_beside_the_activation_does_not_end_the_watch(published: Store) -> None:
    probation = watching(published)
    probation.expect(published.pin("v1"))
    probation.count(Counts("v2", 100, 100, 0))
    assert (await rolled_back(published)).version == "v1"


async def test_a_redis_that_is_away_only_puts_it_off(published: Store, tmp_path: Path) -> None:
    nowhere = Store.connect(f"unix://{tmp_path}/nobody", "prorec")
    stores = iter([nowhere, published])
    probation = Probation(LIMITS, lambda version, reason: next(stores).rollback(if_active=version, reason=reason))
    for version in ("v1", "v2"):
        probation.expect(published.activate(version))
        probation.switched(version)
    probation.count(Counts("v2", 100, 100, 0))
    assert (await rolled_back(published)).version == "v1"


async def test_a_race_lost_to_another_replica_is_no_fault(published: Store, caplog: pytest.LogCaptureFixture) -> None:
    one, other = watching(published), watching(published)
    one.count(Counts("v2", 100, 100, 0))
    await rolled_back(published)
    epoch = found(published).epoch
    other.count(Counts("v2", 100, 100, 0))
    await until(lambda: "model v2 was not rolled back" in caplog.text)
    assert found(published).epoch == epoch
