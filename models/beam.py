"""Reference beam search in numpy: slow, plain, and what every fast path is compared with.

It shares nothing with the exported graph but the rules: a beam's score is the sum over levels of the log-softmax over
all `V` tokens, the trie masks afterwards, ties go to the lower candidate index (beam first, then child).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .trie import CodeTrie

LevelLogits = Callable[[int, NDArray[np.int32]], NDArray[np.float32]]
"""(level l, prefixes int32 [K, l]) → logits float32 [K, V] of one user's next token."""


@dataclass(frozen=True)
class Candidates:
    """Best leaves of one search, best first; places that no legal leaf fills are absent.

    leaf        int32 [k]
    item        int32 [k] item indices
    score       float32 [k], what the order follows
    code_score  float32 [k], log-probability of the code
    prefix_score  float32 [k, L], log-probability of its first 1 … L tokens
    edge_gap    smallest distance, over levels, between the last candidate kept and the first one dropped: below the
                runtimes' rounding, another runtime may rightly keep the other
    """

    leaf: NDArray[np.int32]
    item: NDArray[np.int32]
    score: NDArray[np.float32]
    code_score: NDArray[np.float32]
    prefix_score: NDArray[np.float32]
    edge_gap: float


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last axis, in float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), dtype=np.float32)


def legal_states(trie: CodeTrie, legal_leaf: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Which states of levels 1 … L have a legal leaf below them; bool [S_{l+1}] a level."""
    alive = [legal_leaf]
    for level in range(trie.code_length - 1, 0, -1):
        alive.insert(0, np.logical_or.reduceat(alive[0], trie.child_start[level][:-1]))
    return alive


def beam_search(
    trie: CodeTrie,
    logits: LevelLogits,
    width: int,
    *,
    legal_leaf: NDArray[np.bool_] | None = None,
    item_score: NDArray[np.float32] | None = None,
    rescore_weight: float = 0.0,
) -> Candidates:
    """Trie-constrained beam search for one user.

    width           K, beams kept at every level
    legal_leaf      bool [N], leaves that may be returned; all when None
    item_score      float32 [N], added at the end to a leaf's code score with `rescore_weight`
    """
    alive = legal_states(trie, np.ones(trie.item_count, dtype=bool) if legal_leaf is None else legal_leaf)
    prefixes = np.zeros((1, 0), dtype=np.int32)
    states = np.zeros(1, dtype=np.int32)
    scores = np.zeros(1, dtype=np.float32)
    trail = np.zeros((1, 0), dtype=np.float32)
    edge_gap = float("inf")
    for level in range(trie.code_length):
        if not len(states):
            break  # no legal leaf at all
        log_probs = log_softmax(logits(level, prefixes))
        beams, children = _children(trie, level, states, alive[level])
        tokens = trie.child_token[level][children]
        totals = scores[beams] + log_probs[beams, tokens]
        order = np.argsort(-totals, kind="stable")
        kept = order[:width]
        if len(order) > width:
            edge_gap = min(edge_gap, float(totals[order[width - 1]] - totals[order[width]]))
        prefixes = np.concatenate([prefixes[beams[kept]], tokens[kept, None]], axis=1)
        states, scores = children[kept], totals[kept]
        trail = np.concatenate([trail[beams[kept]], scores[:, None]], axis=1)
    return _ranked(trie, states, trail, item_score, rescore_weight, edge_gap)


def _children(
    trie: CodeTrie, level: int, states: NDArray[np.int32], alive: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Every living child of every beam, in candidate order: (its beam, its state)."""
    starts = trie.child_start[level]
    beams = np.repeat(np.arange(len(states)), starts[states + 1] - starts[states])
    ranges = [np.arange(starts[s], starts[s + 1], dtype=np.int32) for s in states]
    children = np.concatenate(ranges) if ranges else np.empty(0, dtype=np.int32)
    return beams[alive[children]], children[alive[children]]


def _ranked(
    trie: CodeTrie,
    leaves: NDArray[np.int32],
    trail: NDArray[np.float32],
    item_score: NDArray[np.float32] | None,
    rescore_weight: float,
    edge_gap: float,
) -> Candidates:
    items = trie.leaf_item[leaves]
    code_scores = trail[:, -1] if len(leaves) else np.empty(0, dtype=np.float32)
    scores = code_scores
    if item_score is not None:
        scores = code_scores + np.float32(rescore_weight) * item_score[items]
    order = np.argsort(-scores, kind="stable")
    return Candidates(leaves[order], items[order], scores[order], code_scores[order], trail[order], edge_gap)
