"""The code trie as level arrays: what may follow a prefix, in two integer arrays a level.

Items are sorted by code, so the children of a state are neighbours and a state is only a row number. Level 0 has one
state, the root; level L's states are the leaves, one an item, in code order.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .codes import CodeTable
from .errors import TrieError

_FEW: Final = 16  # leaves; with more of them numpy is faster


@dataclass(frozen=True)
class DeadStates:
    """Subtrees of one level whose legal leaves are all excluded, and whose parents still have another one.

    parent  int32 [X], the state above, at the level before
    offset  int32 [X], which of the parent's children
    """

    parent: NDArray[np.int32]
    offset: NDArray[np.int32]


@dataclass(frozen=True)
class CodeTrie:
    """The trie of `L` levels over `N` items.

    child_start  L arrays, int32 [S_l + 1]: children of state s at level l are rows child_start[l][s] …
                 child_start[l][s + 1] - 1 of level l + 1
    child_token  L arrays, int32 [S_{l+1}]: the token that leads to each state of level l + 1, ascending among siblings
    leaf_item    int32 [N]: item index of each leaf
    tokens_per_level  V
    """

    child_start: tuple[NDArray[np.int32], ...]
    child_token: tuple[NDArray[np.int32], ...]
    leaf_item: NDArray[np.int32]
    tokens_per_level: int

    @classmethod
    def build(cls, codes: CodeTable) -> "CodeTrie":
        """Sorts the codes and cuts them into levels, vectorised; raises TrieError for two items with one code."""
        if codes.item_count == 0:
            raise TrieError("a trie needs at least one item")
        order = codes.order()
        tokens = codes.tokens[order]
        starts: list[NDArray[np.int32]] = []
        labels: list[NDArray[np.int32]] = []
        first_rows = np.zeros(1, dtype=np.int64)  # first sorted row of every state of this level
        begins = np.zeros(len(tokens), dtype=bool)
        begins[0] = True
        for level in range(codes.code_length):
            begins[1:] |= tokens[1:, level] != tokens[:-1, level]
            child_rows = np.flatnonzero(begins)
            bounds = np.append(first_rows, len(tokens))
            starts.append(np.searchsorted(child_rows, bounds).astype(np.int32))
            labels.append(np.ascontiguousarray(tokens[child_rows, level]))
            first_rows = child_rows
        if len(first_rows) != len(tokens):
            twin = int(np.flatnonzero(~begins)[0])
            raise TrieError(f"items {order[twin - 1]} and {order[twin]} share the code {tokens[twin].tolist()}")
        return cls(tuple(starts), tuple(labels), order.astype(np.int32), codes.tokens_per_level)

    @property
    def code_length(self) -> int:
        return len(self.child_token)

    @property
    def item_count(self) -> int:
        return int(self.leaf_item.size)

    @property
    def nbytes(self) -> int:
        return self.leaf_item.nbytes + sum(a.nbytes for a in (*self.child_start, *self.child_token))

    @cached_property
    def branching(self) -> tuple[int, ...]:
        """Largest number of children of any state, for each level 0 … L - 1."""
        return tuple(int(np.diff(starts).max()) for starts in self.child_start)

    @cached_property
    def item_leaf(self) -> NDArray[np.int32]:
        """Leaf of each item, int32 [N]: the inverse of `leaf_item`."""
        leaves = np.empty_like(self.leaf_item)
        leaves[self.leaf_item] = np.arange(self.item_count, dtype=np.int32)
        return leaves

    def states(self) -> tuple[int, ...]:
        """S_l for l = 0 … L."""
        return (1, *(int(labels.size) for labels in self.child_token))

    def first_leaves(self) -> list[NDArray[np.int64]]:
        """For levels 0 … L, int64 [S_l + 1]: the first leaf below every state, and one past the last leaf."""
        firsts = [np.arange(self.item_count + 1)]
        for starts in reversed(self.child_start):
            firsts.insert(0, firsts[0][starts])
        return firsts

    def check(self) -> None:
        """Raises TrieError unless the arrays describe one trie whose every leaf is a different item."""
        if len(self.child_start) != len(self.child_token) or not self.child_token:
            raise TrieError("a trie needs one child_start and one child_token array for every level")
        sizes = self.states()
        for level, (starts, labels) in enumerate(zip(self.child_start, self.child_token, strict=True)):
            self._check_level(level, starts, labels, sizes[level])
        if self.leaf_item.size != sizes[-1]:
            raise TrieError(f"{sizes[-1]} leaves but {self.leaf_item.size} items")
        seen = np.zeros(self.item_count, dtype=bool)
        if self.leaf_item.dtype != np.int32:
            raise TrieError("leaf_item must be int32")
        if self.leaf_item.min() < 0 or self.leaf_item.max() >= self.item_count:
            raise TrieError("leaf_item names an item that does not exist")
        seen[self.leaf_item] = True
        if not seen.all():
            raise TrieError("leaf_item names an item twice")

    def _check_level(self, level: int, starts: NDArray[np.int32], labels: NDArray[np.int32], state_count: int) -> None:
        if starts.dtype != np.int32 or labels.dtype != np.int32:
            raise TrieError(f"level {level}: arrays must be int32")
        if starts.size != state_count + 1 or starts[0] != 0 or starts[-1] != labels.size:
            raise TrieError(f"level {level}: child_start does not span the {labels.size} states below")
        if (np.diff(starts) < 1).any():
            raise TrieError(f"level {level}: a state without children")
        if labels.min() < 0 or labels.max() >= self.tokens_per_level:
            raise TrieError(f"level {level}: a token outside 0 … {self.tokens_per_level - 1}")
        rises = np.diff(labels) > 0
        rises[starts[1:-1] - 1] = True  # a new parent may begin with any token
        if not rises.all():
            raise TrieError(f"level {level}: sibling tokens are not ascending")

    def count_leaves(self, legal: NDArray[np.bool_]) -> tuple[NDArray[np.int32], ...]:
        """Legal leaves below every state of levels 1 … L, one int32 array [S_{l+1}] a level; `legal` is bool [N]."""
        counts = [legal.astype(np.int32)]
        for level in range(self.code_length - 1, 0, -1):
            before = np.zeros(counts[0].size + 1, dtype=np.int32)
            np.cumsum(counts[0], dtype=np.int32, out=before[1:])
            at = before[self.child_start[level]]
            counts.insert(0, at[1:] - at[:-1])
        return tuple(counts)

    @cached_property
    def leaf_counts(self) -> tuple[NDArray[np.int32], ...]:
        """`count_leaves` where every leaf is legal."""
        return self.count_leaves(np.ones(self.item_count, dtype=np.bool_))

    def ancestors(self, leaves: NDArray[np.int32]) -> list[NDArray[np.int32]]:
        """States of levels 1 … L on the way to each leaf (int32 [X]), one int32 array [X] a level."""
        path = [leaves]
        for level in range(self.code_length - 1, 0, -1):
            path.insert(0, _parents(self.child_start[level], path[0]))
        return path

    def dead_states(
        self, leaves: NDArray[np.int32], counts: Sequence[NDArray[np.int32]] | None = None
    ) -> list[DeadStates]:
        """The largest subtrees all of whose legal leaves are in `leaves`; one entry a level.

        `leaves` is int32 [X] in any order; a leaf that is named again counts once.
        `counts` says how many legal leaves each state has (`count_leaves`; arrays may be longer than that); None: every
        leaf is legal. A search that steps into none of these subtrees, nor into one without a legal leaf, reaches every
        other legal leaf and no dead end. Cost O(X · L · log S).
        """
        counts = self.leaf_counts if counts is None else counts
        if leaves.size <= _FEW:
            return self._dead_above_few(leaves.tolist(), counts)
        return self._dead_above_many(leaves, counts)

    def _dead_above_few(self, leaves: list[int], counts: Sequence[NDArray[np.int32]]) -> list[DeadStates]:
        """Leaf by leaf: a numpy call takes as long as a dozen of these steps, and there are forty of them below."""
        dead = [_NONE_DEAD] * self.code_length
        gone = {leaf: legal for leaf in leaves if (legal := counts[-1].item(leaf))}  # state → legal leaves
        for level in range(self.code_length - 1, -1, -1):
            if not gone:
                break
            starts = self.child_start[level].data
            parents = [bisect_right(starts, state) - 1 for state in gone]
            lost: dict[int, int] = {}
            for parent, legal in zip(parents, gone.values(), strict=True):
                lost[parent] = lost.get(parent, 0) + legal
            above = counts[level - 1]
            emptied = {parent: legal for parent, legal in lost.items() if level and above.item(parent) == legal}
            ends = [(parent, state) for parent, state in zip(parents, gone, strict=True) if parent not in emptied]
            if ends:
                offsets = [state - starts[parent] for parent, state in ends]
                dead[level] = DeadStates(_int32([parent for parent, _ in ends]), _int32(offsets))
            gone = emptied
        return dead

    def _dead_above_many(self, leaves: NDArray[np.int32], counts: Sequence[NDArray[np.int32]]) -> list[DeadStates]:
        """All leaves of a level at once."""
        dead = [_NONE_DEAD] * self.code_length
        gone = np.unique(leaves[counts[-1][leaves] > 0])
        for level in range(self.code_length - 1, -1, -1):
            if not gone.size:
                break
            parents = _parents(self.child_start[level], gone)
            fresh = np.empty(parents.size, dtype=np.bool_)
            fresh[0] = True
            np.not_equal(parents[1:], parents[:-1], out=fresh[1:])
            first = np.flatnonzero(fresh)
            above = parents[first]
            # A child with another legal leaf is not among the gone, so it keeps its parent's sum below the count. The
            # root has no parent that could skip it, so its children stay listed.
            emptied = np.add.reduceat(counts[level][gone], first) == counts[level - 1][above] if level else first < 0
            offsets = gone - self.child_start[level][parents]
            if emptied.any():
                keep = ~emptied[np.cumsum(fresh) - 1]
                parents, offsets = parents[keep], offsets[keep]
            dead[level] = DeadStates(parents, offsets)
            gone = above[emptied]
        return dead


def _parents(starts: NDArray[np.int32], states: NDArray[np.int32]) -> NDArray[np.int32]:
    """The state above each of `states`. Of one type throughout: numpy would convert all of `starts` otherwise."""
    return (np.searchsorted(starts, states, side="right") - 1).astype(np.int32)


def _int32(numbers: list[int]) -> NDArray[np.int32]:
    return np.array(numbers, dtype=np.int32)


_NONE_DEAD = DeadStates(_int32([]), _int32([]))
