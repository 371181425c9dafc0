"""Places of held-out targets in a ranking of the whole catalog."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import TrainingError
from .interactions import Holdout

_USERS_PER_CHUNK = 64

Scores = Callable[[list[NDArray[np.int32]]], Tensor]
"""Histories of a chunk of users → scores float [B, N] of all items."""


def chunks(rows: NDArray[np.int64], size: int = 256) -> Iterator[NDArray[np.int64]]:
    """The rows in pieces of at most `size`."""
    return (rows[begin : begin + size] for begin in range(0, len(rows), size))


def sampled_rows(holdout: Holdout, limit: int | None = None) -> NDArray[np.int64]:
    """All rows, or `limit` of them drawn with a fixed seed: files often list the busiest users first."""
    if limit is None or limit >= len(holdout):
        return np.arange(len(holdout))
    return np.sort(np.random.default_rng(0).choice(len(holdout), limit, replace=False))


def sampled(holdout: Holdout, limit: int) -> Holdout:
    """The holdout of `sampled_rows` alone."""
    rows = sampled_rows(holdout, limit)
    return replace(holdout, **{name: getattr(holdout, name)[rows] for name in ("user", "target", "start", "stop")})


def masked_items(history: NDArray[np.int32], target: int) -> NDArray[np.int32]:
    """What a masked ranking leaves out: the history, but not a target that the user takes again."""
    return history[history != target]


def full_ranks(holdout: Holdout, scores: Scores, *, mask_history: bool, limit: int | None = None) -> NDArray[np.int64]:
    """0-based rank of each target among all items, int64 [M], for all rows or a sample of `limit`.

    Of items with the target's own score half, rounded up, count as better, so that equal scores win nothing. Raises
    TrainingError for a target without a finite score, to which no item would compare as better.
    """
    return np.concatenate(
        [_ranks(holdout, rows, scores, mask_history) for rows in chunks(sampled_rows(holdout, limit), _USERS_PER_CHUNK)]
    )


def _ranks(holdout: Holdout, rows: NDArray[np.int64], scores: Scores, mask_history: bool) -> NDArray[np.int64]:
    histories = [holdout.history(row) for row in rows.tolist()]
    targets = holdout.target[rows]
    with torch.no_grad():
        table = scores(histories)
    if mask_history:
        for place, (history, target) in enumerate(zip(histories, targets.tolist(), strict=True)):
            masked = torch.from_numpy(masked_items(history, target).astype(np.int64))
            table[place, masked.to(table.device)] = -torch.inf
    wanted = table.gather(1, torch.from_numpy(targets.astype(np.int64))[:, None].to(table.device))
    if not bool(torch.isfinite(wanted).all()):
        raise TrainingError("an item's score is not finite; try a lower learning rate")
    better, same = (table > wanted).sum(dim=1), (table == wanted).sum(dim=1) - 1
    ranks: NDArray[np.int64] = (better + (same + 1) // 2).cpu().numpy()
    return ranks
