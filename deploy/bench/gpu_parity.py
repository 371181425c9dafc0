"""Whether a device gives the answers that the CPU gives: the same items in the same order, near-ties apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.artifact import Artifact
from models.graph import SearchRow, bucket_for
from service.engine.search import Found, Search, Shape, dead_class

from .findings import Finding

K: Final = 10
GOAL_PERCENT: Final = 99.9
_TOLERANCE: Final = 1e-4
_BATCH: Final = 64


@dataclass(frozen=True)
class Parity:
    """Of `rows` searches, how many gave the same K items in the same order, and how many did but for near-ties; the
    largest difference of scores at one place; and the share of common items, 0 to 1, over all rows."""

    rows: int
    exact: int
    alike: int
    largest_gap: float
    overlap: float


def answers(search: Search, artifact: Artifact, rows: Sequence[SearchRow], beams: int) -> list[Found]:
    """What is found for all rows, in batches of one history bucket as the engine makes them."""
    return [search.run(batch, shape) for shape, batch in _batches(rows, artifact, beams)]


def compare(one: Sequence[Found], other: Sequence[Found]) -> Parity:
    """Two searches' answers to the same rows."""
    rows = exact = alike = common = expected = 0
    gap = 0.0
    for found, wanted in zip(one, other, strict=True):
        rows += len(found.item)
        same = (found.item[:, :K] == wanted.item[:, :K]).all(axis=1)
        gaps = _gaps(found, wanted)
        exact += int(same.sum())
        alike += int((same | (gaps <= 1.0)).sum())
        gap = max(gap, float(gaps.max()) * _TOLERANCE)
        for left, right in zip(found.item[:, :K].tolist(), wanted.item[:, :K].tolist(), strict=True):
            common += len(set(left) & set(right) - {-1})
            expected += len(set(right) - {-1})
    return Parity(rows, exact, alike, gap, common / max(1, expected))


def parity_finding(what: str, parity: Parity, precision: str) -> Finding:
    """With a goal in fp32; a less exact precision is only told."""
    share = 100 * parity.alike / parity.rows
    detail = (
        f"{parity.rows:,} histories, exactly the same {100 * parity.exact / parity.rows:.2f} %, "
        f"{100 * parity.overlap:.2f} % of items in common, scores within {parity.largest_gap:.1e}"
    )
    goal = GOAL_PERCENT if precision == "fp32" else None
    return Finding("parity", f"{what}, {precision}: same items in the same order", share, "%", goal, detail=detail)


def _gaps(found: Found, wanted: Found) -> "np.typing.NDArray[np.float32]":
    """Largest difference of scores at one of the first K places, in tolerances, float [B].

    Where no place differs by more than one tolerance, another item at a place is one that scores the same. Sums of item
    scores are as exact as float32 is at their size.
    """
    there = (wanted.item[:, :K] >= 0) & (found.item[:, :K] >= 0)
    scores = np.where(there, wanted.score[:, :K], 0.0)
    differences = np.abs(np.where(there, found.score[:, :K], 0.0) - scores)
    unequal = (wanted.item[:, :K] >= 0) != (found.item[:, :K] >= 0)
    tolerance = _TOLERANCE * np.maximum(1.0, np.abs(scores).max(axis=1) / 10)
    gaps: np.typing.NDArray[np.float32] = np.where(unequal, np.inf, differences).max(axis=1) / tolerance
    return gaps


def _batches(rows: Sequence[SearchRow], artifact: Artifact, beams: int) -> Iterator[tuple[Shape, list[SearchRow]]]:
    buckets = artifact.manifest.history_buckets
    queues: dict[tuple[int, int], list[SearchRow]] = {}
    for row in rows:
        queues.setdefault((bucket_for(len(row.history), buckets), dead_class(row)), []).append(row)
    for (bucket, dead), queue in queues.items():
        shape = Shape(beams, bucket, dead)
        size = shape.most_rows(_BATCH)
        for at in range(0, len(queue), size):
            yield shape, queue[at : at + size]
