"""What a trained model writes when nothing tells it which codes there are: its own search graph, without its trie."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.codes import CodeTable
from models.graph import Inputs, SearchRow, trie_inputs
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie
from service.engine.search import GraphSearch, Shape


class AnyCodeSearch:
    """A beam search over all V^L codes, however many they are.

    The graph wants a trie, and one of all codes fits into no memory. So the trie grows with the search, a level a run:
    a prefix that a beam of some row has reached has all V tokens below it, any other a single path to a leaf. A path
    adds nothing to a score, so the best leaves of a run are the beams of its level.
    """

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._config = artifact.manifest.config
        self._search = GraphSearch(artifact, threads)

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> NDArray[np.int64]:
        """Codes int64 [B, K, L], best first, -1 where there are fewer; `shape` is one without `rescore`."""
        leaves, reached = np.zeros((1, self._config.code_length), dtype=np.int32), np.zeros(1, dtype=np.int32)
        for level in range(self._config.code_length):
            leaves = _grown(leaves, reached, level, self._config.tokens_per_level)
            self._search.bind(self._catalog(leaves))()
            leaf = self._search.run(rows, shape).item
            reached = np.unique(leaf[leaf >= 0])
        return np.where(leaf[..., None] >= 0, leaves[leaf], -1).astype(np.int64)

    def _catalog(self, leaves: NDArray[np.int32]) -> Inputs:
        """A catalog whose items are the leaves; what a history is read with stays the artifact's."""
        trie = CodeTrie.build(CodeTable(leaves, self._config.tokens_per_level))
        prefixes = PrefixOutput.of_first_items(trie, self._config.width)
        output = np.zeros((len(leaves), self._config.width), dtype=np.float32)
        return trie_inputs(trie) | prefixes.inputs() | {"item_output": output}


def _grown(leaves: NDArray[np.int32], reached: NDArray[np.int32], level: int, tokens: int) -> NDArray[np.int32]:
    """Codes int32 [M, L] in which each of the leaves `reached` int32 [R] has become `tokens` of them at this level."""
    children = np.repeat(leaves[reached], tokens, axis=0)
    children[:, level] = np.tile(np.arange(tokens, dtype=np.int32), len(reached))
    return np.concatenate([np.delete(leaves, reached, axis=0), children])
