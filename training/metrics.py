"""How good ranked lists are when one item is right: recall@k, NDCG@k, and whether a difference is more than chance."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

CUTOFFS = (5, 10, 20)
ABSENT = -1
"""Rank of a target that is not in the list."""

_DRAWS_PER_CHUNK = 4_000_000


@dataclass(frozen=True)
class BootstrapResult:
    """How much better `a` is than `b` on average over users.

    low, high  bounds of the 95 % percentile interval of the mean difference
    p_value    two-sided; see `paired_bootstrap`
    """

    mean_difference: float
    low: float
    high: float
    p_value: float


def ranks_of_targets(candidates: ArrayLike, targets: ArrayLike) -> NDArray[np.int64]:
    """Lists [M, K], best first, and targets [M], both item indices → int64 [M], 0-based place or -1 when absent."""
    found = np.asarray(candidates) == np.asarray(targets)[:, None]
    if not found.shape[1]:
        return np.full(len(found), ABSENT, dtype=np.int64)
    return np.where(found.any(axis=1), found.argmax(axis=1), ABSENT).astype(np.int64)


def gains_at(ranks: ArrayLike, k: int, metric: Literal["recall", "ndcg"]) -> NDArray[np.float64]:
    """What each user adds to a metric, float64 [M]: 0 beyond the first `k`, else 1 or, of NDCG, 1 / log2(rank + 2)."""
    places = _as_ranks(ranks)
    hits = (places >= 0) & (places < k)
    if metric == "recall":
        return hits.astype(np.float64)
    return np.where(hits, 1 / np.log2(np.where(hits, places, 0) + 2), 0.0)


def recall_at(ranks: ArrayLike, k: int) -> float:
    """Share of targets among the first `k`; with one target a user this is the hit rate."""
    return float(np.mean(gains_at(ranks, k, "recall")))


def ndcg_at(ranks: ArrayLike, k: int) -> float:
    """Mean gain over users; the ideal gain of a single target is 1."""
    return float(np.mean(gains_at(ranks, k, "ndcg")))


def metric_table(ranks: ArrayLike) -> dict[str, float]:
    """recall@5, recall@10, recall@20, ndcg@5, ndcg@10, ndcg@20."""
    return {f"recall@{k}": recall_at(ranks, k) for k in CUTOFFS} | {f"ndcg@{k}": ndcg_at(ranks, k) for k in CUTOFFS}


def paired_bootstrap(a: ArrayLike, b: ArrayLike, samples: int = 10_000, seed: int = 0) -> BootstrapResult:
    """Compares two models on the same users; `a` and `b` are [M] values per user (hits, or gains for NDCG).

    Users are drawn with replacement, and the difference is taken per user, so that easy and hard users do not count as
    noise. The p-value is twice the smaller share of samples whose mean difference is not above, or not below, zero
    (at most 1); one is added to both counts, so it is never 0 and never below 2 / (samples + 1).
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if difference.ndim != 1 or np.shape(a) != np.shape(b) or not len(difference):
        raise ValueError(f"a and b must hold one value for each of the same users, not {np.shape(a)} and {np.shape(b)}")
    means = _resampled_means(difference, samples, np.random.default_rng(seed))
    low, high = np.percentile(means, [2.5, 97.5])
    rarer_side = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p_value = min(1.0, 2 * (rarer_side + 1) / (samples + 1))
    return BootstrapResult(float(difference.mean()), float(low), float(high), p_value)


def _resampled_means(difference: NDArray[np.float64], samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """float64 [samples]. Draws how often each distinct value occurs, not each user: hits have but three values."""
    values, counts = np.unique(difference, return_counts=True)
    shares = counts / len(difference)
    chunk = max(1, _DRAWS_PER_CHUNK // len(values))
    means = [
        rng.multinomial(len(difference), shares, size=min(chunk, samples - done)) @ values / len(difference)
        for done in range(0, samples, chunk)
    ]
    return np.concatenate(means)


def _as_ranks(ranks: ArrayLike) -> NDArray[np.int64]:
    places = np.asarray(ranks, dtype=np.int64)
    if not places.size:
        raise ValueError("there are no ranks to take a mean of")
    return places
