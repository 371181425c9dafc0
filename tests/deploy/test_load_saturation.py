"""The search for the highest rate, against simulated services."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from deploy.load.arrivals import Segment, arrivals
from deploy.load.saturation import Search


def found(holds: Callable[[float], bool], *, start: float = 10.0, most: float = 1e5, precision: float = 0.05) -> Search:
    async def asked(rate: float) -> bool:
        return holds(rate)

    search = Search()
    asyncio.run(search.run(asked, start, 2.0, precision, most))
    return search


@pytest.mark.parametrize("capacity", [11.0, 137.0, 5000.0])
def test_the_rate_found_is_just_below_what_the_service_can(capacity: float) -> None:
    search = found(lambda rate: rate <= capacity)
    assert capacity / 1.06 < search.highest <= capacity
    assert len(search.tried) < 20


def test_it_goes_down_where_the_first_rate_is_too_much() -> None:
    search = found(lambda rate: rate <= 3.0, start=100.0)
    assert 3 / 1.06 < search.highest <= 3


def test_no_rate_at_all_ends_the_search() -> None:
    assert found(lambda _rate: False).highest == 0


def test_it_stops_at_the_most() -> None:
    search = found(lambda _rate: True, most=300.0)
    assert search.highest == 300
    assert [rate for rate, _ in search.tried] == [10, 20, 40, 80, 160, 300]


def test_one_hiccup_is_no_limit() -> None:
    asked: list[float] = []

    def hiccup(rate: float) -> bool:
        asked.append(rate)
        return rate <= 500 and asked.count(40.0) != 1

    assert hiccup(1.0)
    assert found(hiccup).highest > 450


def test_what_held_above_a_failure_does_not_count() -> None:
    search = Search([(10.0, True), (40.0, False), (80.0, True)])
    assert search.highest == 10


def test_a_queue_with_one_server_is_searched_by_its_p99() -> None:
    """One server, 5 ms a request: p99 of waiting and serving grows without bound as the rate nears 200/s."""
    slo_s = 0.05

    def holds(rate: float) -> bool:
        free, latencies = 0.0, []
        for moment, _ in arrivals(np.random.default_rng(0), [Segment(rate, 200.0)]):
            free = max(free, moment) + 0.005
            latencies.append(free - moment)
        return bool(np.percentile(latencies, 99) <= slo_s)

    assert 150 < found(holds, start=20.0).highest < 190
