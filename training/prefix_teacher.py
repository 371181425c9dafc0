"""The item head's ranking where a catalog has too many items to score them all at every position.

What a prefix is worth to the item head comes close to a product of the user state with a vector (`prefix_values`), so
the next token is about as likely as those products say, and only children of the prefixes that are met are scored:
P · C of them a level instead of P · N items. Vectors are fitted to items that do not learn any more.
Letters: P positions, C children that a state of the level has at most, N items, L levels, D the width.
"""

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from models.graph import Inputs
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie

from .siblings import Choice, Siblings

_NUMBERS_AT_ONCE: Final = 2**24


class PrefixTeacher:
    """Makes rankings from what prefixes are worth."""

    def __init__(self, trie: CodeTrie, siblings: Siblings, tables: Inputs) -> None:
        """`tables`: item_output float32 [N, D] and the arrays of a `PrefixOutput`; brought to the siblings' device."""
        prefixes, device = PrefixOutput.of(tables), siblings.device
        self.siblings, self.levels = siblings, trie.code_length
        self.leaf_item = torch.from_numpy(trie.leaf_item).long().to(device)
        self._rows = [torch.from_numpy(rows).long().to(device) for rows in prefixes.rows]
        self._shared = torch.from_numpy(prefixes.vectors).to(device)
        self._item = torch.from_numpy(tables["item_output"]).to(device)

    def ranking(self, user_state: Tensor) -> "PrefixRanking":
        """user_state [P, D]."""
        return PrefixRanking(self, user_state.detach())

    def likely(self, level: int, user_state: Tensor, child: Tensor, exists: Tensor) -> Tensor:
        """Of children [P, C] of one state each, among one another: float32 [P, C], 0 where there is none."""
        at_once = max(1, _NUMBERS_AT_ONCE // (child.shape[1] * user_state.shape[1]))
        if level == 0:  # all are at the root
            at_once, child = len(child), child[:1]
        parts = zip(user_state.split(at_once), child.split(at_once), strict=True)
        worth = torch.cat([self._worth(level, *part) for part in parts]).float()
        return worth.masked_fill(~exists, -torch.inf).softmax(dim=1)

    def _worth(self, level: int, user_state: Tensor, child: Tensor) -> Tensor:
        """Children [p, C] → [p, C]. A leaf is worth its item, and so is a prefix that only one item has."""
        if level == self.levels - 1:
            return _product(self._item, self.leaf_item[child], user_state)
        row = self._rows[level][child]
        shared = _product(self._shared, (-1 - row).clamp(min=0), user_state)
        return torch.where(row < 0, shared, _product(self._item, row.clamp(min=0), user_state))


def _product(table: Tensor, rows: Tensor, user_state: Tensor) -> Tensor:
    """Rows [P, C] of a table times user states [P, D] → [P, C]; rows [1, C] are those of all positions."""
    vectors = F.embedding(rows, table)
    if len(rows) == 1:
        return user_state @ vectors[0].T
    return (vectors @ user_state[..., None]).squeeze(-1)


@dataclass(frozen=True)
class PrefixRanking:
    """A `Ranking` of positions with user states [P, D]."""

    teacher: PrefixTeacher
    user_state: Tensor

    def drawn(self) -> Tensor:
        """Token by token."""
        teacher, state = (
            self.teacher,
            torch.zeros(len(self.user_state), dtype=torch.int64, device=self.user_state.device),
        )
        for level in range(teacher.levels):
            child, exists = teacher.siblings.below(level, state)
            likely = teacher.likely(level, self.user_state, child, exists)
            state = child.gather(1, torch.multinomial(likely, 1))[:, 0]
        return teacher.leaf_item[state]

    def targets(self, choices: list[Choice]) -> list[Tensor]:
        return [
            self.teacher.likely(level, self.user_state, choice.child, choice.exists)
            for level, choice in enumerate(choices)
        ]
