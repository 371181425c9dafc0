"""What the item head's ranking says about codes: the soft targets of ranking distillation.

The item head gives every item a probability. Summed over the items below a state of the code trie, they say how likely
each next token is, so a generator that wrote them exactly would lose nothing by searching codes instead of scoring all
items. Ours; teachers that see the whole ranking are known for recommenders (Tang and Wang 2018, arXiv 1809.07428).
Letters: P positions, N items, S_l states of level l, C siblings at most.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.trie import CodeTrie

from .prefix_values import parent_of
from .siblings import Choice


class Ranking(Protocol):
    """What the item head says at P positions. Nothing of it has a gradient."""

    def drawn(self) -> Tensor:
        """Items int64 [P], one for each position, drawn as likely as the item head says.

        Their codes are what a decoder that learns alone learns along: what may follow the first tokens of one target is
        all that a position would teach else, and a search asks what follows all tokens that are likely.
        """
        ...

    def targets(self, choices: list[Choice]) -> list[Tensor]:
        """Every level of P codes → per level, float32 [P, C].

        Row p of level l is the distribution of the next token after the first l tokens of code p.
        """
        ...


class RankingTeacher:
    """Makes rankings from scores of all items."""

    def __init__(self, trie: CodeTrie, device: torch.device) -> None:
        self.device = device
        self.leaf_item = torch.from_numpy(trie.leaf_item).long().to(device)
        self._parents = [torch.from_numpy(parent_of(starts)).to(device) for starts in trie.child_start]
        self._states = trie.states()

    def ranking(self, user_state: Tensor, item: Tensor) -> "ItemRanking":
        """user_state [P, D], item vectors [N, D]."""
        with torch.no_grad():
            likely = (user_state @ item[self.leaf_item].T).float().softmax(dim=1)
        return ItemRanking(self, likely)

    def masses(self, likely: Tensor) -> list[Tensor]:
        """Probability of every leaf, [P, N] → of the children of each level, [P, S_{l+1}]."""
        mass = [likely]
        for level in range(len(self._parents) - 1, 0, -1):
            above = mass[0].new_zeros(len(likely), self._states[level])
            mass.insert(0, above.index_add_(1, self._parents[level], mass[0]))
        return mass


@dataclass(frozen=True)
class ItemRanking:
    """A ranking of all items; likely is float32 [P, N], by leaf of the trie."""

    teacher: RankingTeacher
    likely: Tensor

    def drawn(self) -> Tensor:
        upto = self.likely.cumsum(dim=1)
        place = torch.rand(len(upto), 1, device=upto.device) * upto[:, -1:]
        leaf = torch.searchsorted(upto, place, right=True).clamp(max=upto.shape[1] - 1)
        return self.teacher.leaf_item[leaf[:, 0]]

    def targets(self, choices: list[Choice]) -> list[Tensor]:
        masses = self.teacher.masses(self.likely)
        return [_share(below, choice) for below, choice in zip(masses, choices, strict=True)]


def _share(mass: Tensor, choice: Choice) -> Tensor:
    """mass [P, S_{l+1}]: probability of all leaves below each child."""
    share = mass.gather(1, choice.child) * choice.exists
    return share / share.sum(dim=1, keepdim=True).clamp(min=torch.finfo(share.dtype).tiny)
