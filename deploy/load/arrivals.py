"""When requests start: Poisson times at a rate that may change, whatever the answers do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

WARM_UP: Final = "warm-up"  # requests of this part are made and checked, and their latency is not counted


@dataclass(frozen=True)
class Segment:
    """A time of one rate, in requests a second; `part` is the name under which its requests are counted."""

    rate: float
    seconds: float
    part: str = "load"


def arrivals(rng: np.random.Generator, segments: Sequence[Segment]) -> Iterator[tuple[float, str]]:
    """(seconds after the beginning, part) of every request, in order.

    At a border between two rates the wait begins anew, which is right because exponential waits have no memory.
    """
    begins = 0.0
    for segment in segments:
        ends, moment = begins + segment.seconds, begins
        while segment.rate > 0 and (moment := moment + float(rng.exponential(1 / segment.rate))) < ends:
            yield moment, segment.part
        begins = ends


def shared(segments: Sequence[Segment], clients: int) -> list[Segment]:
    """What each of several clients does: Poisson arrivals that are added up are Poisson arrivals again."""
    return [Segment(segment.rate / clients, segment.seconds, segment.part) for segment in segments]
