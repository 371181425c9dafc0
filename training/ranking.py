"""Places of held-out targets in a ranking of the whole catalog."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .interactions import Holdout

Scores = Callable[[list[NDArray[np.int32]]], Tensor]
"""Histories of a chunk of users → scores float [B, N] of all items."""


def chunks(rows: int, size: int = 256) -> Iterator[range]:
    """0 … rows - 1 in pieces."""
    return (range(begin, min(begin + size, rows)) for begin in range(0, rows, size))


def first_users(holdout: Holdout, limit: int | None) -> int:
    """How many rows to evaluate: all, or the first `limit`; rows are in no order that matters."""
    return len(holdout) if limit is None else min(limit, len(holdout))


def full_ranks(holdout: Holdout, scores: Scores, *, mask_history: bool, limit: int | None = None) -> NDArray[np.int64]:
    """0-based rank of every target among all items, int64 [M]; ties count half, so that equal scores win nothing."""
    ranks: list[NDArray[np.int64]] = []
    for rows in chunks(first_users(holdout, limit)):
        histories = [holdout.history(row) for row in rows]
        with torch.no_grad():
            table = scores(histories)
        targets = torch.from_numpy(holdout.target[rows.start : rows.stop].astype(np.int64))
        wanted = table.gather(1, targets[:, None])
        if mask_history:
            for place, history in enumerate(histories):
                table[place, torch.from_numpy(history.astype(np.int64))] = -torch.inf
            table.scatter_(1, targets[:, None], wanted)
        better, same = (table > wanted).sum(dim=1), (table == wanted).sum(dim=1) - 1
        ranks.append((better + same // 2).numpy())
    return np.concatenate(ranks)
