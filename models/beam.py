"""Reference beam search in numpy: slow, plain, and what every fast path is compared with.

It shares nothing with the exported graph but the rules:

*  A beam's code score is the sum over levels of the log-softmax over the children that its state has in the trie,
   those included that this request may not have: a leaf's is the log-probability of its item among all items. Its score
   is that plus the weight of rescoring times the value of its state, which for a leaf is the item score.
*  Below the root, only the most promising children are valued: S times as many as beams, by what they are expected to
   score if the item head thinks of a token as the decoder does: parent's score + (1 + weight) · log-probability.
*  Ties go to the lower candidate index (beam first, then child), and after the shortlist to the more promising one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .trie import CodeTrie


def shortlist(level: int) -> int:
    """S, children that are valued for each beam of `level` ≥ 1: most states branch widely only near the root."""
    return 4 if level == 1 else 2


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


def sibling_log_probs(
    trie: CodeTrie, level: int, states: NDArray[np.int32], logits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """states [K] of `level`, logits [K, V] → log-probabilities float32 [K, V], minus infinity where no child is."""
    found = np.full_like(logits, -np.inf)
    starts = trie.child_start[level]
    for row, state in enumerate(states):
        tokens = trie.child_token[level][starts[state] : starts[state + 1]]
        found[row, tokens] = log_softmax(logits[row, tokens])
    return found


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
    values: Sequence[NDArray[np.float32]] | None = None,
    rescore_weight: float = 0.0,
) -> Candidates:
    """Trie-constrained beam search for one user.

    width           K, beams kept at every level
    legal_leaf      bool [N], leaves that may be returned; all when None
    values          L arrays, float32 [S_{l+1}], added to code scores with `rescore_weight`; nothing when None
    """
    weight = np.float32(rescore_weight if values is not None else 0.0)
    alive = legal_states(trie, np.ones(trie.item_count, dtype=bool) if legal_leaf is None else legal_leaf)
    prefixes = np.zeros((1, 0), dtype=np.int32)
    states = np.zeros(1, dtype=np.int32)
    scores = codes = np.zeros(1, dtype=np.float32)
    trail = np.zeros((1, 0), dtype=np.float32)
    edge_gap = float("inf")
    for level in range(trie.code_length):
        if not len(states):
            break  # no legal leaf at all
        log_probs = sibling_log_probs(trie, level, states, logits(level, prefixes))
        beams, children = _children(trie, level, states, alive[level])
        tokens = trie.child_token[level][children]
        steps = log_probs[beams, tokens]
        near, gap = np.arange(len(beams)), float("inf")
        if level and weight:
            near, gap = _cut(scores[beams] + (1 + weight) * steps, shortlist(level) * width)
        edge_gap = min(edge_gap, gap)
        beams, children, tokens = beams[near], children[near], tokens[near]
        written = codes[beams] + steps[near]
        totals = written if values is None else written + weight * values[level][children]
        kept, gap = _cut(totals, width)
        edge_gap = min(edge_gap, gap)
        prefixes = np.concatenate([prefixes[beams[kept]], tokens[kept, None]], axis=1)
        states, scores, codes = children[kept], totals[kept], written[kept]
        trail = np.concatenate([trail[beams[kept]], codes[:, None]], axis=1)
    return Candidates(states, trie.leaf_item[states], scores, codes, trail, edge_gap)


def _cut(totals: NDArray[np.float32], count: int) -> tuple[NDArray[np.int64], float]:
    """The best `count` places, best first, and how far the first one left out is behind the last of them."""
    order = np.argsort(-totals, kind="stable")
    gap = float(totals[order[count - 1]] - totals[order[count]]) if len(order) > count else float("inf")
    return order[:count], gap


def _children(
    trie: CodeTrie, level: int, states: NDArray[np.int32], alive: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Every living child of every beam, in candidate order: (its beam, its state)."""
    starts = trie.child_start[level]
    beams = np.repeat(np.arange(len(states)), starts[states + 1] - starts[states])
    ranges = [np.arange(starts[s], starts[s + 1], dtype=np.int32) for s in states]
    children = np.concatenate(ranges) if ranges else np.empty(0, dtype=np.int32)
    return beams[alive[children]], children[alive[children]]
