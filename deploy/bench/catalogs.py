"""Catalogs of any size as inputs of a graph, without an artifact and without gigabytes of random numbers."""

import tempfile
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.codes import CodeTable
from models.config import ModelConfig
from models.graph import Inputs, SearchRow, trie_inputs
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie

from ..synthetic import random_codes

_HISTORIES: Final = 256


@dataclass(frozen=True)
class BenchCatalog:
    """Random items.

    codes      of all items
    trie       over the codes
    inputs     what the graph is fed of the catalog, the tables of both generators
    histories  int32 [256, T], each of different items, drawn evenly
    """

    codes: CodeTable
    trie: CodeTrie
    inputs: Inputs
    histories: NDArray[np.int32]

    @classmethod
    def build(cls, items: int, config: ModelConfig, seed: int = 0) -> "BenchCatalog":
        """Item tables are sparse files with random rows where the histories have their items and zeros elsewhere.

        Ten million rows would take ten gigabytes, and a search reads few of them. Every row that is read is a page of
        its own, as in a full table. Scores of items are zero for most, so these catalogs are for ranking by code.
        """
        rng = np.random.default_rng(seed)
        codes = random_codes(items, config.code_length, config.tokens_per_level, rng)
        trie = CodeTrie.build(codes)
        histories = np.stack([_different(items, config.history_length, rng) for _ in range(_HISTORIES)])
        prefixes = PrefixOutput.of_first_items(trie, config.width)
        inputs = trie_inputs(trie) | prefixes.inputs() | {"item_code": codes.tokens}
        for name in ("item_input", "item_output"):
            inputs[name] = _sparse_table(items, config.width, np.unique(histories), rng)
        return cls(codes, trie, inputs, histories)

    def rows(self, count: int, length: int, first: int = 0) -> list[SearchRow]:
        """`count` searches with histories of `length` items, those from `first` on."""
        return [SearchRow(history) for history in self.history(count, length, first)]

    def history(self, count: int, length: int, first: int = 0) -> NDArray[np.int32]:
        """The histories of `rows`, int32 [count, length]."""
        return self.histories[(first + np.arange(count)) % _HISTORIES, -length:]


def _different(items: int, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    return rng.choice(items, min(count, items), replace=False, shuffle=False).astype(np.int32)


def _sparse_table(items: int, width: int, filled: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.float32]:
    with tempfile.TemporaryFile() as file:
        file.truncate(items * width * 4)
        table: NDArray[np.float32] = np.memmap(file, dtype=np.float32, mode="r+", shape=(items, width))
    table[filled] = rng.standard_normal((len(filled), width), dtype=np.float32)
    return table
