"""What the item head gives to the states of a code trie above its leaves: a vector each, as an item has one.

A prefix that only one item has is worth what the item is, so it has no vector of its own. Fitted by
`training.prefix_values`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import TrieError
from .insertion import Insertion, spread
from .trie import CodeTrie


@dataclass(frozen=True)
class PrefixOutput:
    """Where each state's vector is.

    vectors  float32 [M, D], M ≥ 1
    rows     L - 1 arrays, int32 [S_{l+1}]: r ≥ 0 is item r's vector, r < 0 is `vectors[-1 - r]`
    """

    vectors: NDArray[np.float32]
    rows: tuple[NDArray[np.int32], ...]

    @classmethod
    def of(cls, inputs: Mapping[str, NDArray[Any]]) -> "PrefixOutput":
        """The same back from among the inputs of a graph."""
        levels = range(sum(name.startswith("prefix_row_") for name in inputs))
        return cls(inputs["prefix_output"], tuple(inputs[f"prefix_row_{level}"] for level in levels))

    @classmethod
    def of_first_items(cls, trie: CodeTrie, width: int) -> "PrefixOutput":
        """Without fitting: every prefix is worth the first of its items, in the order of codes; `width` is D."""
        rows = (trie.leaf_item[first[:-1]] for first in trie.first_leaves()[1:-1])
        return cls(np.zeros((1, width), dtype=np.float32), tuple(rows))

    def inputs(self) -> dict[str, NDArray[Any]]:
        """As `models.graph` names them."""
        return {"prefix_output": self.vectors} | {f"prefix_row_{level}": row for level, row in enumerate(self.rows)}

    def grown(self, insertion: Insertion, items: NDArray[np.int32]) -> "PrefixOutput":
        """After an insertion of `items` int32 [M], as they were given to it: a new state is worth one of its items.

        A state that was there keeps its vector; what it had been fitted to did not know the new items.
        """
        levels = zip(self.rows, insertion.before, insertion.states, strict=False)
        return PrefixOutput(self.vectors, tuple(_grown(*level, items) for level in levels))

    def check(self, trie: CodeTrie) -> None:
        """Raises TrieError unless every state above the leaves has a vector, its own or that of an item."""
        sizes = trie.states()[1:-1]
        if [row.size for row in self.rows] != list(sizes):
            raise TrieError(f"prefix rows of {[row.size for row in self.rows]} states and not of {list(sizes)}")
        for row in self.rows:
            if row.dtype != np.int32 or row.min() < -len(self.vectors) or row.max() >= trie.item_count:
                raise TrieError("a prefix row is not an int32 number of a vector that there is")


def _grown(
    row: NDArray[np.int32], before: NDArray[np.int64], states: NDArray[np.int32], items: NDArray[np.int32]
) -> NDArray[np.int32]:
    owner = np.zeros(row.size + before.size, dtype=np.int32)
    owner[states] = items
    return spread(row, before, owner[before + np.arange(before.size)])
