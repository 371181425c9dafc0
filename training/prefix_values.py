"""Vectors for prefixes of codes, so that beam search can ask the item head at every level and not only at the end.

To the item head a prefix is worth the logarithm of the probability mass of all items below it,
log Σ exp(user state · item vector). A linear function of the user state comes close to that, so a prefix gets a vector
like an item's own, fitted in closed form (ridge regression) on real user states. Ours; that inner nodes of a tree want
values of their own that follow from those of their leaves is known from tree-based retrieval (Zhu et al. 2018, arXiv
1801.02294). Letters: C user states, c of them at once, N items, S states of a level, M prefixes that several items
share.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.prefix_output import PrefixOutput
from models.trie import CodeTrie

_STRENGTH = 0.005
_SCORES = 2**31  # of an item and a user state, in all
_SCORES_AT_ONCE = 2**27


def user_state_count(item_count: int, width: int, most: int) -> int:
    """How many user states to fit on: `most`, fewer where a catalog is so large that it would take minutes, and four
    for each of the D unknowns of a vector all the same."""
    return min(most, max(4 * width, _SCORES // item_count))


def fit_prefix_output(trie: CodeTrie, item_output: NDArray[np.float32], user_states: Tensor) -> PrefixOutput:
    """item_output float32 [N, D], user states [C, D] to fit on. Time O(C · N), memory O(N · (c + D)), on the device of
    the user states."""
    states = user_states.double()
    gram = states.T @ states + len(states) * _STRENGTH * torch.eye(states.shape[1], device=states.device)
    fit = torch.linalg.solve(gram, states.T).T.float()  # [C, D]
    by_leaf = torch.from_numpy(item_output[trie.leaf_item]).to(states.device)
    shared = [torch.from_numpy(np.diff(first) > 1).to(states.device) for first in trie.first_leaves()[1:-1]]
    parents = [torch.from_numpy(parent_of(starts)).to(states.device) for starts in trie.child_start[1:]]
    vectors = [by_leaf.new_zeros(int(mask.sum()), by_leaf.shape[1]) for mask in shared]
    at_once = max(1, _SCORES_AT_ONCE // trie.item_count)
    for some, part in zip(states.float().split(at_once), fit.split(at_once), strict=True):
        mass = by_leaf @ some.T  # [N, c], then [S, c] of one level after the other, upwards
        for level in reversed(range(len(shared))):
            mass = _log_mass(mass, parents[level], shared[level].numel())
            vectors[level] += mass[shared[level]] @ part
    found = torch.cat([*vectors, by_leaf.new_zeros(0 if any(map(len, vectors)) else 1, by_leaf.shape[1])])
    return PrefixOutput(found.cpu().numpy(), _rows(trie))


def _rows(trie: CodeTrie) -> tuple[NDArray[np.int32], ...]:
    """The item of a prefix that only one has, and a vector of its own for every other one, in order."""
    rows: list[NDArray[np.int32]] = []
    known = 0
    for first in trie.first_leaves()[1:-1]:
        row, shared = trie.leaf_item[first[:-1]].copy(), np.diff(first) > 1
        row[shared] = -1 - known - np.arange(int(shared.sum()), dtype=np.int32)
        known += int(shared.sum())
        rows.append(row)
    return tuple(rows)


def parent_of(starts: NDArray[np.int32]) -> NDArray[np.int64]:
    """The state above each child, of the S states whose children begin at `starts` int32 [S + 1]."""
    return np.repeat(np.arange(starts.size - 1), np.diff(starts))


def _log_mass(mass: Tensor, parent: Tensor, count: int) -> Tensor:
    """log Σ exp over the children of each of S = `count` states: [children, c] and their parents → [S, c]."""
    shape, of = (count, mass.shape[1]), parent[:, None].expand_as(mass)
    top = mass.new_full(shape, -torch.inf).scatter_reduce_(0, of, mass, "amax")
    rest = mass.sub_(top[parent]).exp_()
    return top.add_(mass.new_zeros(shape).index_add_(0, parent, rest).log_())
