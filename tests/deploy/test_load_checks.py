"""What counts as a wrong answer, and when an item may not come back."""

import asyncio
import time
from collections import Counter

import httpx
import numpy as np
import pytest

from deploy.errors import BenchError
from deploy.load.checks import (
    FICKLE,
    OTHER,
    UNKNOWN,
    Answer,
    Asked,
    FaithfulUsers,
    KnownAnswers,
    RecommendedItem,
    Sighting,
)
from deploy.load.churn import RETURNED, STALE, Ledger
from deploy.load.histories import made_up
from deploy.load.lanes import Lanes


def answer(*items: str, version: str = "one", revision: int = 0) -> Answer:
    return Answer(version, [RecommendedItem(item) for item in items], revision)


def asked(number: int = 0, user: str | None = None) -> Asked:
    return Asked(number, user, 0.0, 0.0)


def test_known_answers_are_known_by_version_and_catalog() -> None:
    known = KnownAnswers()
    assert known(asked(), answer("anything")) is None  # nothing is known
    known.keep([answer("a", "b"), answer("c", "d")])
    assert known(asked(1), answer("c", "d")) is None
    assert known(asked(1), answer("d", "c")) == OTHER
    assert known(asked(0), answer("a", "b", revision=1)) == UNKNOWN
    assert known(asked(0), answer("a", "b", version="two")) == UNKNOWN


def test_answers_of_two_versions_cannot_be_learned_as_one() -> None:
    with pytest.raises(BenchError, match="one version and one catalog"):
        KnownAnswers().keep([answer("a"), answer("a", version="two")])


def test_a_user_stays_with_one_version() -> None:
    check = FaithfulUsers()
    assert check(asked(user="u"), answer()) is None
    assert check(asked(user="v"), answer(version="two")) is None
    assert check(asked(user="u"), answer(version="two")) == FICKLE
    assert check(asked(), answer(version="two")) is None


def judged(ledger: Ledger, sent: float, received: float, *items: str, revision: int = 9) -> Counter[str]:
    before = Counter(ledger.wrong)
    ledger.judge([Sighting(sent, received, revision, list(items))])
    return ledger.wrong - before


def test_an_item_may_not_come_back_between_its_two_acknowledgements() -> None:
    ledger = Ledger(Counter())
    before = time.monotonic()
    ledger.took("a", 5)
    during = time.monotonic()
    assert judged(ledger, during, during + 1, "a") == {RETURNED: 1}
    assert not judged(ledger, before - 1, during + 1, "a")  # asked before it was acknowledged
    assert not judged(ledger, during, during + 1, "b")
    ledger.gives_back("a")
    after = time.monotonic()
    assert not judged(ledger, during, after + 1, "a")  # answered when it might be back
    assert judged(ledger, during, during, "a") == {RETURNED: 1}


def test_an_answer_may_not_be_older_than_what_was_acknowledged() -> None:
    ledger = Ledger(Counter())
    ledger.obeys(3)
    between = time.monotonic()
    ledger.obeys(4)
    after = time.monotonic()
    assert not judged(ledger, between, after, revision=3)
    assert judged(ledger, after, after, revision=3) == {STALE: 1}
    assert judged(ledger, between, after, revision=2) == {STALE: 1}


def test_made_up_histories_look_like_those_of_shops() -> None:
    histories = made_up([f"item-{number}" for number in range(5000)], 4000, np.random.default_rng(0))
    lengths = [len(history) for history in histories]
    assert np.percentile(lengths, [5, 50, 75, 95]).tolist() == [
        4,
        5,
        pytest.approx(7.5, abs=0.6),
        pytest.approx(18, abs=2),
    ]
    assert all(len(set(history)) == len(history) for history in histories)
    counts = sorted(Counter(item for history in histories for item in history).values(), reverse=True)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.4)  # Zipf


def test_made_up_histories_of_a_tiny_catalog_hold_each_item_once() -> None:
    assert all(sorted(history) <= ["a", "b"] for history in made_up(["a", "b"], 50, np.random.default_rng(0)))


class Lane(httpx.AsyncBaseTransport):
    """Answers after a moment, or fails; knows whether it is in use."""

    def __init__(self, fails: bool = False) -> None:
        self.used, self.busy, self.closed, self._fails = 0, False, False, fails

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert not self.busy
        self.busy = True
        self.used += 1
        await asyncio.sleep(0.01)
        self.busy = False
        if self._fails:
            raise httpx.ReadError("gone", request=request)
        return httpx.Response(200, content=b"hello")

    async def aclose(self) -> None:
        self.closed = True


def test_lanes_are_as_many_as_requests_in_flight_and_are_used_again() -> None:
    opened: list[Lane] = []

    def connect() -> Lane:
        opened.append(Lane())
        return opened[-1]

    async def ask(lanes: Lanes) -> None:
        response = await lanes.send(httpx.Request("GET", "http://there/"))
        assert response.content == b"hello"

    async def whole() -> None:
        lanes = Lanes(connect)
        for _ in range(3):
            await asyncio.gather(*(ask(lanes) for _ in range(5)))
        assert [lane.used for lane in opened] == [3] * 5
        await lanes.aclose()
        assert all(lane.closed for lane in opened)

    asyncio.run(whole())


def test_a_lane_that_failed_is_closed_and_not_used_again() -> None:
    broken = Lane(fails=True)
    lanes_to_open = [broken, Lane()]

    async def whole() -> None:
        lanes = Lanes(lambda: lanes_to_open.pop(0))
        with pytest.raises(httpx.ReadError):
            await lanes.send(httpx.Request("GET", "http://there/"))
        assert broken.closed
        await lanes.send(httpx.Request("GET", "http://there/"))
        assert broken.used == 1

    asyncio.run(whole())
