"""Timing for comparisons: the calls take turns in every round, and ratios are taken round by round.

Whatever disturbs the machine for a while then disturbs both sides of a ratio.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

Seconds = Callable[[], float]
"""Runs something once and says how many seconds of it count."""

_ROUND_S: Final = 0.05
_MOST_CALLS: Final = 50


@dataclass(frozen=True)
class Times:
    """Seconds a call of each side, one median a round."""

    rounds: Mapping[str, list[float]]

    def ms(self, name: str) -> float:
        """Median over the rounds, in milliseconds."""
        return 1e3 * statistics.median(self.rounds[name])

    def ratios(self, slow: str, fast: str) -> list[float]:
        """slow ÷ fast, one a round."""
        return [a / b for a, b in zip(self.rounds[slow], self.rounds[fast], strict=True)]

    def ratio(self, slow: str, fast: str) -> float:
        """Median of `ratios`."""
        return statistics.median(self.ratios(slow, fast))


def whole(call: Callable[[], object]) -> Seconds:
    """A call all of whose time counts."""

    def run() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    return run


def interleaved(calls: Mapping[str, Seconds], rounds: int, budget_s: float | None = None) -> Times:
    """Measures every call in every round, short ones several times a round; the first, cold call is left out.

    budget_s  stop after the round in which this many seconds have passed
    """
    started = time.perf_counter()
    repeats = {name: _repeats(call) for name, call in calls.items()}
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            measured[name].append(statistics.median(call() for _ in range(repeats[name])))
        if budget_s is not None and time.perf_counter() - started > budget_s:
            break
    return Times(measured)


def _repeats(call: Seconds) -> int:
    call()
    took = whole(call)()
    return min(_MOST_CALLS, 1 + int(_ROUND_S / took))
