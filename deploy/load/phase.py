"""What came of many requests, in memory that does not grow with them, so that a load may last for days.

Latencies are kept in DDSketch histograms: any percentile is right to 0.2 % of its value, and two of them, of two client
processes or of two moments, add up to one.
"""

import collections
import math
from collections.abc import Iterable
from typing import Any, Final

from ddsketch import DDSketch

_ACCURACY: Final = 0.002  # of a percentile, relative
_MOST_WINDOWS: Final = 360


class Phase:
    """Counts, and latencies in seconds from the intended start; `late` is how long after it requests really started."""

    def __init__(self) -> None:
        self.latency = DDSketch(_ACCURACY)
        self.late = DDSketch(_ACCURACY)
        self.versions: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.wrong: collections.Counter[str] = collections.Counter()  # answers that must not be, by what is wrong

    @classmethod
    def merged(cls, phases: Iterable["Phase"]) -> "Phase":
        whole = cls()
        for phase in phases:
            whole.add(phase)
        return whole

    def add(self, other: "Phase") -> None:
        self.latency.merge(other.latency)
        self.late.merge(other.late)
        self.versions.update(other.versions)
        self.failures.update(other.failures)
        self.wrong.update(other.wrong)

    @property
    def answered(self) -> int:
        return int(self.latency.count)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def mixed(self) -> int:
        return sum(self.wrong.values())

    @property
    def flawless(self) -> bool:
        return bool(self.answered) and not self.failed and not self.mixed

    def percentile_ms(self, percent: float) -> float:
        """NaN where nothing was answered."""
        return _percentile_ms(self.latency, percent)

    def late_ms(self, percent: float) -> float:
        """How late the clients themselves were; NaN where nothing was sent."""
        return _percentile_ms(self.late, percent)

    def summary(self) -> dict[str, Any]:
        """Percentiles are null where nothing was answered."""
        return {
            "answered": self.answered,
            "failed": dict(self.failures),
            "mixed": self.mixed,
            "by_version": dict(self.versions),
        } | {f"{name}_ms": finite(self.percentile_ms(percent)) for name, percent in PERCENTILES.items()}


PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


class Timeline:
    """Phases of equal windows of time; when there are too many, neighbours become one and windows twice as long."""

    def __init__(self, window_s: float, most: int = _MOST_WINDOWS) -> None:
        self.window_s = window_s
        self.windows: dict[int, Phase] = {}
        self._most = most

    def add(self, at_s: float, phase: Phase) -> None:
        """`phase` happened `at_s` seconds after the origin, or shortly after that."""
        self.windows.setdefault(int(at_s / self.window_s), Phase()).add(phase)
        while max(self.windows) >= self._most:
            self._halve()

    def rows(self) -> list[dict[str, Any]]:
        """One JSON object a window that has requests, in order; rates in requests a second."""
        return [self._row(number, self.windows[number]) for number in sorted(self.windows)]

    def _row(self, number: int, phase: Phase) -> dict[str, Any]:
        return {
            "at_s": round(number * self.window_s, 3),
            "rate_per_s": round(phase.answered / self.window_s, 2),
            "failed_per_s": round(phase.failed / self.window_s, 2),
            "mixed": phase.mixed,
        } | {f"{name}_ms": finite(phase.percentile_ms(percent)) for name, percent in PERCENTILES.items()}

    def _halve(self) -> None:
        narrow, self.windows = self.windows, {}
        self.window_s *= 2
        for number, phase in narrow.items():
            self.windows.setdefault(number // 2, Phase()).add(phase)


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _percentile_ms(sketch: DDSketch, percent: float) -> float:
    if not sketch.count:
        return math.nan
    value = sketch.get_quantile_value(percent / 100)
    assert value is not None
    return round(1e3 * value, 2)
