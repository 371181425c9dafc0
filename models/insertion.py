"""New leaves in a code trie: whole new arrays, merged in one pass a level, the old trie stays as it is.

A trie in use is never changed: readers keep the old arrays until they are given the new ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import TrieError
from .trie import CodeTrie


@dataclass(frozen=True)
class Insertion:
    """A trie with more leaves than another one.

    trie      the new trie
    before    L arrays, int64 ascending: the old row that each new state of level l + 1 was put before
    states    L arrays, int32 [M]: state of level l + 1 on the way to each new leaf, in the order the codes were given
    """

    trie: CodeTrie
    before: tuple[NDArray[np.int64], ...]
    states: tuple[NDArray[np.int32], ...]


@dataclass(frozen=True)
class _Level:
    """One step down for all new codes, in sorted order.

    row     int64 [M], the state in the old trie, or the old row before which a new one belongs
    exists  bool [M], whether the old trie has the state
    fresh   bool [M], the first code of each new state
    """

    row: NDArray[np.int64]
    exists: NDArray[np.bool_]
    fresh: NDArray[np.bool_]

    @property
    def before(self) -> NDArray[np.int64]:
        return self.row[self.fresh]

    def new_rows(self) -> NDArray[np.int64]:
        """The row of every code's state in the new trie, int64 [M]."""
        shift = np.searchsorted(self.before, self.row, side="right")
        return self.row + np.where(self.exists, shift, np.cumsum(self.fresh) - 1)


def insert(trie: CodeTrie, codes: NDArray[np.int32], items: NDArray[np.int32]) -> Insertion:
    """Adds leaves with `codes` (int32 [M, L]) for item indices `items` (int32 [M]).

    Raises TrieError for a token out of range, or a code that is taken or given twice. Cost O(N + M · L · log V).
    """
    if codes.size and (codes.min() < 0 or codes.max() >= trie.tokens_per_level):
        raise TrieError(f"a code holds a token outside 0 … {trie.tokens_per_level - 1}")
    order = np.lexsort(codes.T[::-1])
    levels = _descend(trie, codes[order])
    if not levels[-1].fresh.all():
        twin = int(order[np.flatnonzero(~levels[-1].fresh)[0]])
        raise TrieError(f"the code {codes[twin].tolist()} of item {items[twin]} is taken")
    rows = [level.new_rows() for level in levels]
    merged = CodeTrie(
        tuple(_starts(trie, level, levels, rows) for level in range(trie.code_length)),
        tuple(
            spread(trie.child_token[number], level.before, codes[order, number][level.fresh])
            for number, level in enumerate(levels)
        ),
        spread(trie.leaf_item, levels[-1].before, items[order]),
        trie.tokens_per_level,
    )
    back = np.argsort(order)
    states = tuple(row[back].astype(np.int32) for row in rows)
    return Insertion(merged, tuple(level.before for level in levels), states)


def find(trie: CodeTrie, codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Leaf of each of `codes` (int32 [M, L]), -1 where no leaf has it; int64 [M]."""
    exists = np.ones(len(codes), dtype=np.bool_)
    row = np.zeros(len(codes), dtype=np.int64)
    for level in range(trie.code_length):
        row, exists = _step(trie, level, row, exists, codes[:, level])
    return np.where(exists, row, -1)


def spread(
    old: NDArray[Any], before: NDArray[np.int64], values: NDArray[Any] | int, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """`old` with `values` put before the rows `before` (ascending), copied stretch by stretch.

    Into `out` where given, which may be longer. Same result as `numpy.insert`, several times as fast.
    """
    merged = np.empty(old.size + before.size, dtype=old.dtype) if out is None else out
    bounds = [0, *before.tolist(), old.size]
    for shift, (first, last) in enumerate(pairwise(bounds)):
        if first < last:
            merged[first + shift : last + shift] = old[first:last]
    merged[before + np.arange(before.size)] = values
    return merged


def _descend(trie: CodeTrie, codes: NDArray[np.int32]) -> list[_Level]:
    levels: list[_Level] = []
    row = np.zeros(len(codes), dtype=np.int64)
    exists = np.ones(len(codes), dtype=np.bool_)
    differs = np.zeros(len(codes), dtype=np.bool_)  # from the code before, up to this level
    differs[:1] = True
    for level in range(trie.code_length):
        differs[1:] |= codes[1:, level] != codes[:-1, level]
        row, exists = _step(trie, level, row, exists, codes[:, level])
        levels.append(_Level(row, exists, differs & ~exists))
    return levels


def _step(
    trie: CodeTrie, level: int, row: NDArray[np.int64], exists: NDArray[np.bool_], token: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Binary search for `token` among the children of `row`; below a state that is new, everything is."""
    labels = trie.child_token[level]
    low = trie.child_start[level][row].astype(np.int64)
    end = np.where(exists, trie.child_start[level][np.minimum(row + 1, trie.child_start[level].size - 1)], low)
    high = end.astype(np.int64)
    while (open_ := low < high).any():
        middle = (low + high) // 2
        right = labels[np.minimum(middle, labels.size - 1)] < token
        low = np.where(open_ & right, middle + 1, low)
        high = np.where(open_ & ~right, middle, high)
    return low, (low < end) & (labels[np.minimum(low, labels.size - 1)] == token)


def _starts(
    trie: CodeTrie, level: int, levels: Sequence[_Level], rows: Sequence[NDArray[np.int64]]
) -> NDArray[np.int32]:
    """`child_start` of one level: how many children each state has now, summed up."""
    children = np.diff(trie.child_start[level])
    if level:
        children = spread(children, levels[level - 1].before, 0)
        above = rows[level - 1][levels[level].fresh]
    else:
        above = np.zeros(int(levels[0].fresh.sum()), dtype=np.int64)
    np.add.at(children, above, 1)
    starts = np.zeros(children.size + 1, dtype=np.int32)
    np.cumsum(children, dtype=np.int32, out=starts[1:])
    return starts
