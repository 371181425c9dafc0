"""From the items a search found, best first, to those an answer shows: k of them, spread out, and good enough."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.frames import Query


@dataclass(frozen=True)
class Selection:
    """places  int64, ascending, so best first; warnings  sentences for the client"""

    places: NDArray[np.int64]
    warnings: Sequence[str] = field(default_factory=list)


def select(scores: NDArray[Any], first_tokens: NDArray[np.int32] | None, query: Query) -> Selection:
    """Chooses among items whose `scores` fall; `first_tokens` (int32, as many) where diversity is asked for."""
    good = len(scores) if query.min_score is None else int((scores >= query.min_score).sum())
    places = np.arange(min(query.k, good))
    warnings: list[str] = []
    if first_tokens is not None:
        places, refilled = _spread(first_tokens[:good].tolist(), query.k, query.diversity)
        if refilled:
            warnings.append(f"{_items(refilled)} more alike than diversity asks for, because too few others were found")
    if missing := min(query.k, len(scores)) - len(places):
        warnings.append(f"{_items(missing)} below min_score")
    return Selection(places, warnings)


def most_alike(k: int, diversity: float) -> int:
    """How many of k items may share their code's first token."""
    return max(1, math.ceil(round(k * (1.0 - diversity), 9)))


def _spread(first_tokens: list[int], k: int, diversity: float) -> tuple[NDArray[np.int64], int]:
    """(places ascending, how many of them had to be taken although enough like them were there)"""
    most, taken = most_alike(k, diversity), dict[int, int]()
    kept: list[int] = []
    for place, token in enumerate(first_tokens):
        if taken.get(token, 0) < most:
            taken[token] = taken.get(token, 0) + 1
            kept.append(place)
            if len(kept) == k:
                break
    refills = sorted(set(range(len(first_tokens))).difference(kept))[: k - len(kept)]
    return np.array(sorted(kept + refills), dtype=np.int64), len(refills)


def _items(count: int) -> str:
    return "1 item is" if count == 1 else f"{count} items are"
