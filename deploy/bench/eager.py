"""The same network and the same constraint in eager torch: what a careful hand-written decoder costs.

The way of STATIC (constrained decoding by a trie in CSR rows): a KV cache, and at every level one dense mask [B · K, V]
of which token may follow, filled from the rows of the states that the beams are in.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.network import Cache, Generator

from .catalogs import BenchCatalog
from .variants import reorder, table_name

_ILLEGAL = float("-inf")


@dataclass(frozen=True)
class EagerResult:
    """item int64 [B, K], -1 where no legal item is left; score float32 [B, K], best first."""

    item: Tensor
    score: Tensor


class EagerSearch:
    """Beam search over a catalog, ranked by code."""

    def __init__(self, network: Generator, catalog: BenchCatalog) -> None:
        self._network = network
        name = table_name(network)
        self._tables = {name: torch.from_numpy(catalog.inputs[name])}
        trie = catalog.trie
        self._start = [torch.from_numpy(starts) for starts in trie.child_start]
        self._token = [torch.from_numpy(tokens) for tokens in trie.child_token]
        self._offset = [torch.arange(width) for width in trie.branching]
        self._leaf_item = torch.from_numpy(trie.leaf_item)

    @torch.inference_mode()
    def run(self, history: Tensor, beams: int) -> EagerResult:
        """history int [B, T], padded with -1 on the left."""
        context = self._network.encode(history, self._tables)
        state = torch.zeros(len(history), 1, dtype=torch.int64)
        score = torch.zeros(len(history), 1)
        tokens: Tensor | None = None
        cache: Cache = ()
        for level in range(self._network.config.code_length):
            logits, cache = self._network.step(level, tokens, context, cache)
            child = self._children(level, state)
            total = score[..., None] + F.log_softmax(logits.masked_fill(child < 0, _ILLEGAL), dim=-1)
            score, place = total.flatten(1).topk(beams, dim=1)
            beam, tokens = place // total.shape[2], place % total.shape[2]
            state = child.flatten(1).gather(1, place).clamp(min=0)
            if level + 1 < self._network.config.code_length:
                cache = reorder(cache, beam)
        item = self._leaf_item[state].masked_fill(score == _ILLEGAL, -1)
        return EagerResult(item, score)

    def _children(self, level: int, state: Tensor) -> Tensor:
        """The state that every token leads to from each of `state` int64 [B, K]: int64 [B, K, V], -1 where none."""
        width = self._network.config.tokens_per_level
        start, offset = self._start[level], self._offset[level]
        child = start[state][..., None] + offset
        exists = child < start[state + 1][..., None]
        child = torch.where(exists, child, 0)
        column = torch.where(exists, self._token[level][child], width)  # what does not exist goes into one more column
        dense = torch.full((*state.shape, width + 1), -1)
        return dense.scatter_(2, column.long(), child)[..., :width]
