"""Beam search that may write any code, and what is left of its answers when codes of no item are thrown away."""

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.codes import CodeTable
from models.search_graph import BEAMS

from .catalogs import BenchCatalog
from .networks import Prepared
from .variants import FreeSearch, open_like, table_name


@dataclass(frozen=True)
class Kept:
    """item int64 [B, K], item indices, -1 for a code that no item has."""

    item: NDArray[np.int64]

    @property
    def invalid(self) -> float:
        """Share of beams that name no item."""
        return float((self.item < 0).mean())

    def missing(self, k: int) -> float:
        """Of `k` wanted items, how many are not there, as a share, averaged over the rows."""
        valid = (self.item >= 0).sum(axis=1)
        return float(np.clip(k - valid, 0, None).mean() / k)


class CodeIndex:
    """Code → item."""

    def __init__(self, codes: CodeTable) -> None:
        self._powers = codes.tokens_per_level ** np.arange(codes.code_length - 1, -1, -1, dtype=np.int64)
        packed = codes.tokens @ self._powers
        self._order = np.argsort(packed)
        self._sorted = packed[self._order]

    def items(self, codes: NDArray[np.int64]) -> Kept:
        """codes int64 [B, K, L]"""
        packed = codes @ self._powers
        place = np.searchsorted(self._sorted, packed).clip(max=len(self._sorted) - 1)
        return Kept(np.where(self._sorted[place] == packed, self._order[place], -1))


class PostFilterSearch:
    """The network's free beam search on the engine's runtime, then the look-up."""

    def __init__(self, prepared: Prepared, catalog: BenchCatalog, like: ort.InferenceSession) -> None:
        model = prepared.variant("free_search", FreeSearch(prepared.network).export)
        self._session = open_like(model.SerializeToString(), like)
        name = table_name(prepared.network)
        self._table = {name: ort.OrtValue.ortvalue_from_numpy(catalog.inputs[name])}
        self._index = CodeIndex(catalog.codes)

    def run(self, history: NDArray[np.int32], beams: int) -> Kept:
        """history int32 [B, T], padded with -1 on the left."""
        fed = {"history": history, BEAMS: np.zeros(beams, dtype=np.int32)}
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in fed.items()} | self._table
        (codes,) = self._session.run_with_ort_values(["codes"], values)
        return self._index.items(codes.numpy())
