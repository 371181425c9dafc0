"""Losses shared by both stages. Letters: P positions, N items, D width, S sampled items."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def item_loss(states: Tensor, targets: Tensor, table: Tensor, full_up_to: int, sampled: int) -> Tensor:
    """Next-item cross-entropy, summed: states [P, D], targets int64 [P], table [N, D] → scalar.

    Over the whole catalog up to `full_up_to` items. Above, over the target and `sampled` items drawn evenly, their
    scores raised by log(N / S) so that the sampled partition estimates the full one (Jean et al. 2015,
    arXiv 1412.2007).
    """
    item_count = table.shape[0]
    if item_count <= full_up_to:
        return F.cross_entropy(states @ table.T, targets, reduction="sum")
    sample = torch.randint(item_count, (sampled,), device=states.device)
    negatives = states @ table[sample].T + math.log(item_count / sampled)
    negatives = negatives.masked_fill(sample[None] == targets[:, None], float("-inf"))
    positives = (states * table[targets]).sum(dim=-1, keepdim=True)
    logits = torch.cat([positives, negatives], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets), reduction="sum")


def info_nce(queries: Tensor, keys: Tensor, temperature: float, piece: int = 0, pieces: int = 1) -> Tensor:
    """Row i of `queries` [S, D] against row i of `keys` [S, D], the other rows as negatives, cosine similarity.

    With `pieces`, only the rows piece, piece + pieces, …: the results of all pieces add up to the mean over all rows.
    """
    rows = torch.arange(len(queries), device=queries.device)[piece::pieces]
    logits = F.normalize(queries[rows], dim=-1) @ F.normalize(keys, dim=-1).T / temperature
    return F.cross_entropy(logits, rows, reduction="sum") / len(queries)
