"""Free codes for new items: residual quantization with a model's codebooks, then the nearest code nobody has.

An item's codes are tried in a fixed order: its nearest prefix of L - 1 tokens with the last tokens from near to far,
then the prefix whose last token is the second nearest, and so on like an odometer. The order reaches every code, so a
free one is found whenever there is one.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Taken = Callable[[NDArray[np.int32]], NDArray[np.bool_]]
"""Codes int32 [n, L] → which of them belong to an item already, bool [n]."""

_CELLS = 1 << 22  # of a distance matrix, at most


def free_codes(embeddings: NDArray[np.float32], codebooks: NDArray[np.float32], taken: Taken) -> NDArray[np.int32]:
    """A free code for each of M embeddings float32 [M, D_I], all different; int32 [M, L].

    codebooks  float32 [L, V, D_I]
    taken      asked about every code before it is given out

    Rows for which no code is free any more are -1. Of rows whose nearest prefixes have room, an earlier one chooses
    before a later one.
    """
    length, token_count, _ = codebooks.shape
    places = _Places(length, token_count, taken)
    codes = np.full((len(embeddings), length), -1, dtype=np.int32)
    ranks = np.zeros((len(embeddings), length - 1), dtype=np.int64)
    pending = np.arange(len(embeddings))
    while len(pending):
        left: list[int] = []
        for rows in _pieces(pending, token_count):
            prefixes, distance = _descend(embeddings[rows], codebooks, ranks[rows])
            tokens = places.choose(prefixes, distance)
            found = tokens >= 0
            codes[rows[found]] = np.concatenate([prefixes, tokens[:, None]], axis=1)[found]
            left += rows[~found].tolist()
        pending = np.array(left, dtype=np.int64)
        if not _advance(ranks, pending, token_count):
            break
    return codes


class _Places:
    """Which last tokens are free below each prefix, asked once a prefix and kept up as codes are given out."""

    def __init__(self, length: int, token_count: int, taken: Taken) -> None:
        self.length = length
        self.token_count = token_count
        self.taken = taken
        self.free: dict[bytes, NDArray[np.bool_]] = {}

    def choose(self, prefixes: NDArray[np.int32], distance: NDArray[np.float32]) -> NDArray[np.int32]:
        """The nearest free token for each row, -1 below a full prefix; prefixes [n, L - 1], distance [n, V]."""
        self._ask(prefixes)
        tokens = np.full(len(prefixes), -1, dtype=np.int32)
        for row, prefix in enumerate(prefixes):
            free = self.free[prefix.tobytes()]
            left = np.flatnonzero(free)
            if left.size:
                tokens[row] = token = left[distance[row, left].argmin()]  # a distance may be infinite
                free[token] = False
        return tokens

    def _ask(self, prefixes: NDArray[np.int32]) -> None:
        unknown = {key: prefix for prefix in prefixes if (key := prefix.tobytes()) not in self.free}
        if not unknown:
            return
        new = np.stack(list(unknown.values()))
        for part in _pieces(np.arange(len(new)), self.token_count):
            codes = np.empty((len(part), self.token_count, self.length), dtype=np.int32)
            codes[:, :, :-1] = new[part][:, None]
            codes[:, :, -1] = np.arange(self.token_count)
            free = ~self.taken(codes.reshape(-1, self.length)).reshape(len(part), self.token_count)
            self.free |= {prefix.tobytes(): row for prefix, row in zip(new[part], free, strict=True)}


def _descend(
    points: NDArray[np.float32], codebooks: NDArray[np.float32], ranks: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The prefix int32 [n, L - 1] whose token at level l is the ranks[:, l]-nearest, and the last level's distances."""
    residual = points
    prefixes = np.zeros(ranks.shape, dtype=np.int32)
    for level in range(ranks.shape[1]):
        distance = _distance(residual, codebooks[level])
        if ranks[:, level].any():
            order = np.argsort(distance, axis=1, kind="stable")
            prefixes[:, level] = np.take_along_axis(order, ranks[:, level, None], axis=1)[:, 0]
        else:
            prefixes[:, level] = distance.argmin(axis=1)
        residual = residual - codebooks[level][prefixes[:, level]]
    return prefixes, _distance(residual, codebooks[-1])


def _distance(points: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances [n, V], less each point's own square, which changes no order."""
    return np.asarray(np.square(centroids).sum(axis=1) - 2 * (points @ centroids.T), dtype=np.float32)


def _advance(ranks: NDArray[np.int64], rows: NDArray[np.int64], token_count: int) -> bool:
    """The next prefix of each row's order; False after the last one of any row, which has seen every prefix full."""
    carry = rows
    for level in range(ranks.shape[1] - 1, -1, -1):
        ranks[carry, level] += 1
        carry = carry[ranks[carry, level] == token_count]
        ranks[carry, level] = 0
    return not len(carry)


def _pieces(rows: NDArray[np.int64], token_count: int) -> Iterator[NDArray[np.int64]]:
    step = max(1, _CELLS // token_count)
    return (rows[begin : begin + step] for begin in range(0, len(rows), step))
