"""What the item head's ranking says about codes: the soft targets of ranking distillation.

The item head gives every item a probability. Summed over the items below a state of the code trie, they say how likely
each next token is, so a generator that wrote them exactly would lose nothing by searching codes instead of scoring all
items. Ours; teachers that see the whole ranking are known for recommenders (Tang and Wang 2018, arXiv 1809.07428).
Letters: P positions, N items, S_l states of level l, V tokens a level.
"""

import numpy as np
import torch
from torch import Tensor

from models.trie import CodeTrie

from .prefix_values import parent_of


class RankingTeacher:
    """Probabilities of tokens, from scores of all items."""

    def __init__(self, trie: CodeTrie, device: torch.device) -> None:
        self._tokens_per_level = trie.tokens_per_level
        self._leaf_item = torch.from_numpy(trie.leaf_item).long().to(device)
        starts = [start.astype(np.int64) for start in trie.child_start]
        states = [np.searchsorted(first, trie.item_leaf, side="right") - 1 for first in trie.first_leaves()[:-1]]
        self._offsets = [torch.arange(width, device=device) for width in trie.branching]
        self._tokens = [torch.from_numpy(tokens).long().to(device) for tokens in trie.child_token]
        parents = [parent_of(start) for start in trie.child_start]
        self._starts, self._parents, self._states = (
            [torch.from_numpy(array).to(device) for array in arrays] for arrays in (starts, parents, states)
        )

    def targets(self, user_state: Tensor, item: Tensor, target: Tensor) -> list[Tensor]:
        """user_state [P, D], item vectors [N, D], target int64 [P] → per level, float32 [P, V].

        Row p of level l is the distribution of the next token after the first l tokens of target p's code. No gradient.
        """
        with torch.no_grad():
            mass = [(user_state @ item[self._leaf_item].T).float().softmax(dim=1)]  # of the children of each level
            for level in range(len(self._tokens) - 1, 0, -1):
                above = mass[0].new_zeros(len(target), len(self._starts[level]) - 1)
                mass.insert(0, above.index_add_(1, self._parents[level], mass[0]))
            return [self._level(level, mass[level], target) for level in range(len(self._tokens))]

    def _level(self, level: int, mass: Tensor, target: Tensor) -> Tensor:
        """mass [P, S_{l+1}]: probability of all leaves below each child."""
        state = self._states[level][target]
        child = self._starts[level][state][:, None] + self._offsets[level]
        real = child < self._starts[level][state + 1][:, None]
        child = torch.where(real, child, 0)
        share = mass.gather(1, child) * real
        share = share / share.sum(dim=1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
        empty = torch.zeros(len(target), self._tokens_per_level, device=mass.device)
        return empty.scatter_add_(1, self._tokens[level][child], share)
