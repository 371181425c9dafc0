"""Statistics of a load: right to 0.2 %, the same whole or in parts, and no larger after a million requests."""

import math
import pickle

import numpy as np
import pytest

from deploy.load.arrivals import WARM_UP
from deploy.load.clients import Report
from deploy.load.phase import Phase, Timeline
from deploy.load.record import Record


def phase_of(*latencies_s: float) -> Phase:
    phase = Phase()
    for latency in latencies_s:
        phase.latency.add(latency)
    return phase


def lognormal(count: int, seed: int = 0) -> list[float]:
    return [float(value) for value in np.random.default_rng(seed).lognormal(-4, 1, count)]


@pytest.mark.parametrize("percent", [50, 95, 99, 99.9, 100])
def test_percentiles_are_right_to_a_fifth_of_a_percent(percent: float) -> None:
    latencies = lognormal(20_000)
    exact = 1e3 * float(np.percentile(latencies, percent, method="lower"))
    assert phase_of(*latencies).percentile_ms(percent) == pytest.approx(exact, rel=0.002, abs=0.005)


def test_merged_phases_are_the_phase_of_all() -> None:
    one, other = lognormal(3000, 1), lognormal(2000, 2)
    merged, whole = Phase.merged([phase_of(*one), phase_of(*other)]), phase_of(*one, *other)
    assert merged.summary() == whole.summary()
    assert merged.answered == 5000


def test_counts_add_up_too() -> None:
    one, other = phase_of(0.1), phase_of(0.2)
    one.failures["503"] += 2
    other.failures["503"] += 1
    other.wrong["late"] += 1
    other.versions["v"] += 1
    one.add(other)
    assert (one.failed, one.mixed, one.versions["v"]) == (3, 1, 1)
    assert not one.flawless


def test_nothing_answered_is_no_number() -> None:
    assert math.isnan(Phase().percentile_ms(99))
    assert Phase().summary()["p99_ms"] is None
    assert not Phase().flawless


def test_until_something_comes_back_the_line_of_progress_says_that_it_prepares() -> None:
    record = Record()
    assert record.line().endswith(" s: preparing")
    record.mark("activate shop-2")
    assert record.line().endswith(" s, activate shop-2: preparing")
    record.hear(Report({(0.0, WARM_UP): phase_of(0.5)}, [], cpu_s=0.0, done=False))
    assert ": 0 answered, " in record.line()


def test_memory_does_not_grow_with_requests() -> None:
    few, many = phase_of(*lognormal(2_000)), phase_of(*lognormal(200_000))
    assert len(pickle.dumps(many)) < 2 * len(pickle.dumps(few)) < 100_000


def test_windows_become_wider_instead_of_more() -> None:
    timeline = Timeline(1.0, most=8)
    for second in range(100):
        timeline.add(second + 0.5, phase_of(0.01 * (second + 1)))
    assert timeline.window_s == 16
    assert len(timeline.windows) == 7
    assert sum(phase.answered for phase in timeline.windows.values()) == 100
    row = timeline.rows()[1]
    assert (row["at_s"], row["rate_per_s"], row["p99_ms"]) == (16, 1, timeline.windows[1].percentile_ms(99))


def test_a_late_report_counts_where_it_belongs() -> None:
    timeline = Timeline(1.0)
    timeline.add(7.2, phase_of(0.1))
    timeline.add(2.9, phase_of(0.3))
    assert [row["at_s"] for row in timeline.rows()] == [2.0, 7.0]
