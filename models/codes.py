"""The code table: one unique code of `L` tokens for every item."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import CodeError


@dataclass(frozen=True)
class CodeTable:
    """Codes of all items.

    tokens            int32 [N, L], every value in 0 … V - 1, rows pairwise different
    tokens_per_level  V
    """

    tokens: NDArray[np.int32]
    tokens_per_level: int

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.dtype != np.int32:
            raise CodeError(f"codes must be int32 [N, L], got {self.tokens.dtype} {list(self.tokens.shape)}")
        if self.tokens.size and (self.tokens.min() < 0 or self.tokens.max() >= self.tokens_per_level):
            raise CodeError(f"codes hold a token outside 0 … {self.tokens_per_level - 1}")

    @property
    def item_count(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def code_length(self) -> int:
        return int(self.tokens.shape[1])

    def order(self) -> NDArray[np.int64]:
        """Item indices sorted by code, first token most significant; int64 [N]."""
        packed = self._packed()
        if packed is not None:
            return np.argsort(packed, kind="stable")
        return np.lexsort(self.tokens.T[::-1])

    def used_tokens(self) -> list[int]:
        """How many different tokens each level uses, of `V`."""
        return [int(np.unique(self.tokens[:, level]).size) for level in range(self.code_length)]

    def _packed(self) -> NDArray[np.uint64] | None:
        """Codes as one integer each, or None where they do not fit 64 bits."""
        bits = max(1, int(self.tokens_per_level - 1).bit_length())
        if bits * self.code_length > 64:
            return None
        packed = np.zeros(self.item_count, dtype=np.uint64)
        for level in range(self.code_length):
            packed <<= np.uint64(bits)
            packed |= self.tokens[:, level].astype(np.uint64)
        return packed
