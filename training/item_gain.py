"""How far a predicted item vector is moved away from the average one, chosen on validation events.

A regression shrinks towards the mean: predicted vectors lie closer together than learned ones, so their scores never
reach the top of a ranking. Multiplying their distance from the mean undoes that, and too much of it lets new items
crowd out known ones. Judged by cross-fitting: a twentieth of the items is treated as new at a time, predicted from the
others, and ranked among all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .interactions import Holdout
from .ranking import masked_items, sampled_rows
from .ridge import fit_ridge

States = Callable[[list[NDArray[np.int32]]], Tensor]
"""Histories → user states [B, D]."""

GAINS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
_FOLDS = 20
_FOLDS_TRIED = 5
_EVENTS = 2048
_ITEMS = 65_536
_K = 50  # or a twentieth of a small catalog
_LOSS_ALLOWED = 0.05


@dataclass(frozen=True)
class Trial:
    """Recall of validation events, among the first 50, at one gain, while a twentieth of the catalog is new."""

    gain: float
    new: float
    known: float


def choose_gain(trials: list[Trial]) -> float:
    """The largest gain at which known items lose at most a twentieth of their recall against the smallest one.

    The smallest, where no known item is found at all, and 1 where nothing was tried.
    """
    if not trials:
        return 1.0
    allowed = trials[0].known * (1 - _LOSS_ALLOWED)
    if not allowed:
        return trials[0].gain  # nothing is known that could be lost
    return max(trial.gain for trial in trials if trial.known >= allowed)


@dataclass(frozen=True)
class Events:
    """Validation events over some of the items.

    items    int64 [N'] item indices
    queries  [R, D] user states
    targets  int64 [R], places in `items`
    seen     bool [R, N'], left out of a row's ranking
    """

    items: Tensor
    queries: Tensor
    targets: Tensor
    seen: Tensor

    @classmethod
    def of(cls, holdout: Holdout, item_count: int, states: States) -> "Events":
        """A sample of a holdout's rows, over all items or, of a large catalog, a sample that holds the targets."""
        rows = sampled_rows(holdout, _EVENTS)
        targets = holdout.target[rows]
        others = np.random.default_rng(0).choice(item_count, min(item_count, _ITEMS), replace=False)
        items = np.unique(np.concatenate([others, targets]))
        seen = np.zeros((len(rows), len(items)), dtype=bool)
        histories = [holdout.history(row) for row in rows.tolist()]
        for row, (history, target) in enumerate(zip(histories, targets.tolist(), strict=True)):
            seen[row] = np.isin(items, masked_items(history, target))
        queries = torch.cat([states(histories[begin : begin + 256]) for begin in range(0, len(rows), 256)])
        return cls(
            torch.from_numpy(items.astype(np.int64)),
            queries,
            torch.from_numpy(np.searchsorted(items, targets)),
            torch.from_numpy(seen),
        )


def try_gains(features: Tensor, vectors: Tensor, warm: Tensor, events: Events, strength: float) -> list[Trial]:
    """One trial for each of GAINS; none where none of the events' items is warm.

    features  [N, F] from which item vectors are predicted, by a ridge regression of that strength
    vectors   [N, D] learned item vectors, of use where `warm` bool [N]
    """
    features, vectors, warm = features[events.items], vectors[events.items], warm[events.items]
    fold = torch.randint(_FOLDS, (len(vectors),), generator=torch.Generator().manual_seed(0))
    scores = (events.queries @ vectors.T).masked_fill(events.seen, -torch.inf)
    found: list[list[Tensor]] = [[] for _ in GAINS]
    tried = [number for number in range(_FOLDS_TRIED) if bool((warm & (fold != number)).any())]
    for number in tried:
        new, fit = fold == number, warm & (fold != number)
        predicted = fit_ridge(features[fit], vectors[fit], strength)(features[new])
        for trial, gain in zip(found, GAINS, strict=True):
            moved = spread(predicted, vectors[fit].mean(dim=0), gain)
            of_new = (events.queries @ moved.T).masked_fill(events.seen[:, new], -torch.inf)
            trial.append(_found(scores, new, of_new, events.targets))
    if not tried:
        return []
    is_new = torch.cat([(fold == number)[events.targets] for number in tried])
    every = [torch.cat(trial).float() for trial in found]
    return [Trial(g, _mean(hits[is_new]), _mean(hits[~is_new])) for g, hits in zip(GAINS, every, strict=True)]


def _mean(hits: Tensor) -> float:
    return float(hits.mean()) if len(hits) else 0.0


def spread(predicted: Tensor, mean: Tensor, gain: float) -> Tensor:
    """Vectors [M, D] moved away from the mean [D] of learned ones."""
    return mean + gain * (predicted - mean)


def _found(scores: Tensor, new: Tensor, of_new: Tensor, targets: Tensor) -> Tensor:
    """Which targets are among the first when the new items' columns are replaced; bool [R]."""
    mixed = scores.clone()
    mixed[:, new] = of_new
    return (mixed > mixed.gather(1, targets[:, None])).sum(dim=1) < max(1, min(_K, len(new) // 20))
