"""Vectors for prefixes of codes, so that beam search can ask the item head at every level and not only at the end.

To the item head a prefix is worth the logarithm of the probability mass of all items below it,
log Σ exp(user state · item vector). A linear function of the user state comes close to that, so a prefix gets a vector
like an item's own, fitted in closed form (ridge regression) on real user states. Ours; that inner nodes of a tree want
values of their own that follow from those of their leaves is known from tree-based retrieval (Zhu et al. 2018, arXiv
1801.02294). Letters: C user states, N items, M prefixes that several items share, n states of a block.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.prefix_output import PrefixOutput
from models.trie import CodeTrie

_STRENGTH = 0.005
_LEAVES_AT_ONCE = 4096
_STATES_AT_ONCE = 8192


def fit_prefix_output(trie: CodeTrie, item_output: NDArray[np.float32], user_states: Tensor) -> PrefixOutput:
    """item_output float32 [N, D], user states [C, D] to fit on; memory O(C · (states and leaves of a block))."""
    states = user_states.double().cpu().numpy()
    gram = states.T @ states + len(states) * _STRENGTH * np.eye(states.shape[1])
    fit = np.linalg.solve(gram, states.T).T.astype(np.float32)  # [C, D]
    by_leaf = item_output[trie.leaf_item]
    rows: list[NDArray[np.int32]] = []
    vectors = [np.zeros((0, item_output.shape[1]), dtype=np.float32)]
    known = 0
    for first in trie.first_leaves()[1:-1]:
        shared = np.diff(first) > 1
        own = -1 - known - np.arange(int(shared.sum()), dtype=np.int32)
        known += own.size
        row = trie.leaf_item[first[:-1]].copy()
        row[shared] = own
        rows.append(row)
        for begin in range(0, len(row), _STATES_AT_ONCE):
            part = slice(begin, begin + _STATES_AT_ONCE)
            mass = _log_mass(by_leaf, states.astype(np.float32), first[begin : begin + _STATES_AT_ONCE + 1])
            vectors.append(mass[shared[part]] @ fit)
    found = np.concatenate(vectors)
    return PrefixOutput(found if len(found) else np.zeros((1, item_output.shape[1]), dtype=np.float32), tuple(rows))


def _log_mass(
    by_leaf: NDArray[np.float32], states: NDArray[np.float32], first: NDArray[np.int64]
) -> NDArray[np.float32]:
    """log Σ exp(score) over the leaves of each of n neighbouring states, of which `first` int64 [n + 1]; [n, C]."""
    mass = np.full((len(first) - 1, len(states)), -np.inf, dtype=np.float32)
    for begin in range(int(first[0]), int(first[-1]), _LEAVES_AT_ONCE):
        end = min(begin + _LEAVES_AT_ONCE, int(first[-1]))
        low = int(np.searchsorted(first, begin, side="right")) - 1
        high = int(np.searchsorted(first, end, side="left"))
        starts = np.maximum(first[low:high] - begin, 0)
        score = by_leaf[begin:end] @ states.T
        top = np.maximum.reduceat(score, starts, axis=0)
        score -= np.repeat(top, np.diff(np.append(starts, end - begin)), axis=0)
        np.exp(score, out=score)
        part = top + np.log(np.add.reduceat(score, starts, axis=0))
        mass[low:high] = np.logaddexp(mass[low:high], part)
    return mass
