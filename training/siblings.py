"""Among which tokens every token of a code is chosen: the children that its prefix has in the code trie.

A search never writes another token, so nothing is learned about one: neither that it does not occur, which costs a
network more than all that it may choose, nor at levels where an item is already decided. Log-probabilities among
siblings add up to that of the item among all items, as searches score it (`models.beam`).
Letters: P codes, C children that a state of the level has at most, V tokens a level, N items.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.search_layers import HIDDEN
from models.trie import CodeTrie


@dataclass(frozen=True)
class Choice:
    """One level of P codes.

    child   int64 [P, C], the trie's states that the level leads to, 0 where there are no more
    exists  bool [P, C]
    token   int64 [P, C], what leads there
    taken   int64 [P], which of them is the code's own
    """

    child: Tensor
    exists: Tensor
    token: Tensor
    taken: Tensor

    def scores(self, logits: Tensor) -> Tensor:
        """logits [P, V] → those of the siblings, [P, C], so low where there is none that its probability is 0."""
        return logits.gather(1, self.token).masked_fill(~self.exists, HIDDEN)

    def log_prob(self, logits: Tensor) -> Tensor:
        """Of each code's own token, [P]."""
        return -F.cross_entropy(self.scores(logits), self.taken, reduction="none")

    def smoothed(self, smoothing: float) -> Tensor:
        """The token taken, a share of it spread evenly over all siblings; float32 [P, C]."""
        own = F.one_hot(self.taken, self.child.shape[1]).float()
        return own + smoothing * (self.exists / self.exists.sum(dim=1, keepdim=True) - own) if smoothing else own


class Siblings:
    """The trie, asked by item."""

    def __init__(self, trie: CodeTrie, device: torch.device) -> None:
        self.device = device
        self._offsets = [torch.arange(width, device=device) for width in trie.branching]
        states = [np.searchsorted(first, trie.item_leaf, side="right") - 1 for first in trie.first_leaves()]
        self._states, self._starts, self._tokens = (
            [torch.from_numpy(array).long().to(device) for array in arrays]
            for arrays in (states, trie.child_start, trie.child_token)
        )

    def of(self, items: Tensor) -> list[Choice]:
        """items int64 [P] → every level of their codes."""
        return [self._level(level, items) for level in range(len(self._tokens))]

    def _level(self, level: int, items: Tensor) -> Choice:
        starts, state = self._starts[level], self._states[level][items]
        first = starts[state]
        child = first[:, None] + self._offsets[level]
        exists = child < starts[state + 1][:, None]
        child = torch.where(exists, child, 0)
        return Choice(child, exists, self._tokens[level][child], self._states[level + 1][items] - first)
