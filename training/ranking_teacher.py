"""What the item head's ranking says about codes: the soft targets of ranking distillation.

The item head gives every item a probability. Summed over the items below a state of the code trie, they say how likely
each next token is, so a generator that wrote them exactly would lose nothing by searching codes instead of scoring all
items. Ours; teachers that see the whole ranking are known for recommenders (Tang and Wang 2018, arXiv 1809.07428).
Letters: P positions, N items, S_l states of level l, C siblings at most.
"""

import torch
from torch import Tensor

from models.trie import CodeTrie

from .prefix_values import parent_of
from .siblings import Choice

_POSITIONS = 256  # worked on at once: [P, N] is the largest array of a training, and there is one of it


class RankingTeacher:
    """Probabilities of items and tokens, from scores of all items. Nothing here has a gradient."""

    def __init__(self, trie: CodeTrie, device: torch.device) -> None:
        self.device = device
        self._leaf_item = torch.from_numpy(trie.leaf_item).long().to(device)
        self._parents = [torch.from_numpy(parent_of(starts)).to(device) for starts in trie.child_start]
        self._states = trie.states()

    def likely(self, user_state: Tensor, item: Tensor) -> Tensor:
        """user_state [P, D], item vectors [N, D] → probability of every leaf of the trie, float32 [P, N]."""
        with torch.no_grad():
            likely = (user_state @ item[self._leaf_item].T).float()
            for part in likely.split(_POSITIONS):
                part.copy_(part.softmax(dim=1))
            return likely

    def drawn(self, likely: Tensor) -> Tensor:
        """Items int64 [P], one drawn from each row of `likely`.

        Their codes are what a decoder that learns alone learns along: what may follow the first tokens of one target is
        all that a position would teach else, and a search asks what follows all tokens that are likely.
        """
        chance = torch.rand(len(likely), 1, device=likely.device)
        leaves = [_leaf_at(*part) for part in zip(likely.split(_POSITIONS), chance.split(_POSITIONS), strict=True)]
        return self._leaf_item[torch.cat(leaves)]

    def targets(self, likely: Tensor, choices: list[Choice]) -> list[Tensor]:
        """`likely` of P positions, every level of P codes → per level, float32 [P, C].

        Row p of level l is the distribution of the next token after the first l tokens of code p.
        """
        levels = (
            zip(choice.child.split(_POSITIONS), choice.exists.split(_POSITIONS), strict=True) for choice in choices
        )
        parts = zip(likely.split(_POSITIONS), *levels, strict=True)
        return [torch.cat(level) for level in zip(*(self._shares(*part) for part in parts), strict=True)]

    def _shares(self, likely: Tensor, *levels: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Of some positions; child and exists [P, C] of every level's choice."""
        mass = [likely]  # of the children of each level
        for level in range(len(self._parents) - 1, 0, -1):
            above = mass[0].new_zeros(len(likely), self._states[level])
            mass.insert(0, above.index_add_(1, self._parents[level], mass[0]))
        return [_share(below, *choice) for below, choice in zip(mass, levels, strict=True)]


def _leaf_at(likely: Tensor, chance: Tensor) -> Tensor:
    """likely [P, N], chance [P, 1] from 0 to 1 → int64 [P], each leaf for a part of the chances like its own."""
    upto = likely.cumsum(dim=1)
    leaf = torch.searchsorted(upto, chance * upto[:, -1:], right=True)
    return leaf[:, 0].clamp(max=upto.shape[1] - 1)


def _share(mass: Tensor, child: Tensor, exists: Tensor) -> Tensor:
    """mass [P, S_{l+1}]: probability of all leaves below each child."""
    share = mass.gather(1, child) * exists
    return share / share.sum(dim=1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
