"""Losses shared by both stages. Letters: P positions, N items, D width, S sampled items."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rows = Callable[[Tensor | None], Tensor]
"""Item vectors by index: int64 [...] → [..., D]; None → all of them, [N, D]."""


def rows_of(table: Tensor) -> Rows:
    """Those of a table [N, D]."""
    return lambda items: table if items is None else F.embedding(items, table)


def rows_among(rows: Rows, items: Tensor) -> Rows:
    """The same of `items` int64 [...], looked up and made once: every lookup in a table that learns has a gradient of
    the size of the whole table."""
    known = items.unique()
    vectors = rows(known)
    return lambda some: rows(None) if some is None else F.embedding(torch.searchsorted(known, some), vectors)


def draw_items(item_count: int, full_up_to: int, sampled: int, device: torch.device) -> Tensor | None:
    """What `item_loss` compares with: all of up to `full_up_to` items (None), of more int64 [S] drawn evenly."""
    return None if item_count <= full_up_to else torch.randint(item_count, (sampled,), device=device)


def item_loss(states: Tensor, targets: Tensor, rows: Rows, item_count: int, sample: Tensor | None) -> Tensor:
    """Next-item cross-entropy, summed: states [P, D], targets int64 [P], vectors of N items → scalar.

    Over the whole catalog, or over the target and a `sample` of items as `draw_items` gives it, their scores raised by
    log(N / S) so that the sampled partition estimates the full one (Jean et al. 2015, arXiv 1412.2007).
    """
    if sample is None:
        if torch.is_autocast_enabled(states.device.type):  # which torch's chunks do not know
            return F.cross_entropy(states @ rows(None).T, targets, reduction="sum")
        # In chunks of positions: scores of all of them at once would cost more to write and read than to compute.
        chunks = nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(states, rows(None), targets, reduction="sum", options=chunks)
    negatives = states @ rows(sample).T + math.log(item_count / len(sample))
    negatives = negatives.masked_fill(sample[None] == targets[:, None], float("-inf"))
    positives = (states * rows(targets)).sum(dim=-1, keepdim=True)
    logits = torch.cat([positives, negatives], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets), reduction="sum")


def info_nce(queries: Tensor, keys: Tensor, temperature: float, piece: int = 0, pieces: int = 1) -> Tensor:
    """Row i of `queries` [S, D] against row i of `keys` [S, D], the other rows as negatives, cosine similarity.

    With `pieces`, only the rows piece, piece + pieces, …: the results of all pieces add up to the mean over all rows.
    """
    rows = torch.arange(len(queries), device=queries.device)[piece::pieces]
    logits = F.normalize(queries[rows], dim=-1) @ F.normalize(keys, dim=-1).T / temperature
    return F.cross_entropy(logits, rows, reduction="sum") / len(queries)
