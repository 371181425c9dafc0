"""Arrivals are a Poisson process, also where the rate changes and where several clients share it."""

import heapq

import numpy as np
import pytest

from deploy.load.arrivals import Segment, arrivals, shared


def moments(*segments: Segment, seed: int = 0) -> list[float]:
    return [moment for moment, _ in arrivals(np.random.default_rng(seed), segments)]


def test_waits_are_exponential() -> None:
    waits = np.diff(moments(Segment(100.0, 200.0)))
    assert waits.mean() == pytest.approx(0.01, rel=0.03)
    assert waits.std() == pytest.approx(0.01, rel=0.05)
    assert (waits > 0.01).mean() == pytest.approx(np.exp(-1), rel=0.05)


def test_each_segment_has_its_rate_and_its_name() -> None:
    segments = (Segment(10.0, 50.0, "calm"), Segment(200.0, 50.0, "spike"), Segment(10.0, 50.0, "calm again"))
    found = list(arrivals(np.random.default_rng(1), segments))
    for number, (name, expected) in enumerate([("calm", 500), ("spike", 10_000), ("calm again", 500)]):
        inside = [moment for moment, part in found if part == name]
        assert len(inside) == pytest.approx(expected, abs=5 * expected**0.5)
        assert 50 * number <= min(inside) < max(inside) < 50 * (number + 1)


def test_a_rate_of_nothing_is_a_pause() -> None:
    assert min(moments(Segment(0.0, 10.0), Segment(50.0, 10.0))) > 10


def test_clients_together_are_as_one() -> None:
    part = shared([Segment(100.0, 100.0)], 4)
    together = list(heapq.merge(*(moments(*part, seed=seed) for seed in range(4))))
    waits = np.diff(together)
    assert len(together) == pytest.approx(10_000, abs=500)
    assert waits.std() == pytest.approx(waits.mean(), rel=0.05)


def test_seeds_differ() -> None:
    assert moments(Segment(10.0, 10.0), seed=1) != moments(Segment(10.0, 10.0), seed=2)
