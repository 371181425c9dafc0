"""Residual k-means: an embedding becomes `L` tokens, each the nearest centroid of what the levels before left over.

Unique codes come from capacities: a prefix of l tokens has room for V^(L - l) codes. Where more items want a token
than have room below it, those farthest from its centroid go to their next nearest; at the last level, where room is
one, each crowded group is solved exactly as an assignment problem.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .codes import CodeTable
from .errors import CodeError

_FIT_ROWS_PER_TOKEN = 256
_ROWS = 65_536
_CELLS = _ROWS * 256  # of a distance matrix, at most


@dataclass(frozen=True)
class Quantization:
    """Codes of all items and how they came about.

    codes            unique
    nearest          int32 [N, L], each level's nearest centroids, before codes were made unique
    codebooks        float32 [L, V, D_I], centroids of the residuals
    collision_rate   share of items whose nearest-centroid code some other item also had, before codes were made unique
    moved_rate       share of items whose final code is not their nearest-centroid code
    """

    codes: CodeTable
    nearest: NDArray[np.int32]
    codebooks: NDArray[np.float32]
    collision_rate: float
    moved_rate: float


def quantize(
    embeddings: NDArray[np.float32],
    code_length: int,
    tokens_per_level: int,
    seed: int,
    *,
    iterations: int = 40,
    balanced: bool = False,
) -> Quantization:
    """embeddings float32 [N, D_I] → unique codes of `code_length` tokens of `tokens_per_level` values.

    balanced  no token of any level but the last stands in more than its even share of all codes, plus a tenth

    Raises CodeError when there are more items than codes.
    """
    if len(embeddings) > tokens_per_level**code_length:
        raise CodeError(f"{len(embeddings)} items do not fit {tokens_per_level}^{code_length} codes")
    generator = torch.Generator().manual_seed(seed)
    residual = torch.from_numpy(np.array(embeddings, dtype=np.float32))
    tokens = np.zeros((len(embeddings), code_length), dtype=np.int32)
    nearest = np.zeros_like(tokens)
    codebooks: list[Tensor] = []
    for level in range(code_length):
        codebooks.append(_k_means(residual, tokens_per_level, iterations, generator))
        residual = _write_level(level, residual, codebooks[level], tokens, nearest, balanced=balanced)
    return account(tokens, nearest, torch.stack(codebooks).numpy())


def account(tokens: NDArray[np.int32], nearest: NDArray[np.int32], codebooks: NDArray[np.float32]) -> Quantization:
    """Unique codes int32 [N, L] beside the nearest ones, with how often these collided and had to move."""
    _, group, sizes = np.unique(nearest, axis=0, return_inverse=True, return_counts=True)
    return Quantization(
        CodeTable(tokens, codebooks.shape[1]),
        nearest,
        codebooks,
        float((sizes[group.reshape(-1)] > 1).mean()),
        float((tokens != nearest).any(axis=1).mean()),
    )


def assign_unique(embeddings: Tensor, codebooks: Tensor) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Codes by codebooks [L, V, D] that are there already: embeddings [N, D] → (unique, nearest), both int32 [N, L]."""
    residual = embeddings
    tokens = np.zeros((len(embeddings), len(codebooks)), dtype=np.int32)
    nearest = np.zeros_like(tokens)
    for level, centroids in enumerate(codebooks):
        residual = _write_level(level, residual, centroids, tokens, nearest)
    return tokens, nearest


def _write_level(
    level: int,
    residual: Tensor,
    centroids: Tensor,
    tokens: NDArray[np.int32],
    nearest: NDArray[np.int32],
    *,
    balanced: bool = False,
) -> Tensor:
    """Writes a level of the codes [N, L], unique and nearest ones; returns what the unique ones leave over, [N, D]."""
    below = tokens.shape[1] - 1 - level
    nearest[:, level] = wanted = _assign(residual, centroids).numpy()
    if balanced and below:
        wanted = _within_capacity(residual, centroids, wanted, tokens[:, :0], _even_share(len(wanted), len(centroids)))
    tokens[:, level] = _within_capacity(residual, centroids, wanted, tokens[:, :level], len(centroids) ** below)
    return residual - centroids[torch.from_numpy(tokens[:, level]).long()]


def _even_share(rows: int, tokens: int) -> int:
    return -(-rows * 11 // (tokens * 10))


def _k_means(points: Tensor, k: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm on sampled rows, begun by k-means++; an empty centroid moves to the worst-served row."""
    limit = k * _FIT_ROWS_PER_TOKEN
    if len(points) > limit:
        points = points[torch.randperm(len(points), generator=generator)[:limit]]
    centroids = _spread_start(points, k, generator)
    for _ in range(iterations):
        nearest, distance = _nearest(points, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=k)
        moved = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centroids)
        empty = (sizes == 0).nonzero()[:, 0]
        worst = distance.argsort(descending=True)[: len(empty)]
        moved[empty[: len(worst)]] = points[worst]
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _spread_start(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur & Vassilvitskii 2007): each next centroid drawn in proportion to its squared distance."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distance = (points - points[chosen[0]]).square().sum(dim=1)
    for _ in range(k - 1):
        if float(distance.sum()) <= 0:
            distance = torch.ones_like(distance)  # fewer different rows than centroids
        chosen.append(int(torch.multinomial(distance, 1, generator=generator)))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(dim=1))
    return points[chosen].clone()


def _nearest(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(index, squared distance) of each row's nearest centroid."""
    rows = max(1, min(_ROWS, _CELLS // len(centroids)))
    pieces = [torch.cdist(part, centroids).min(dim=1) for part in points.split(rows)]
    return torch.cat([piece.indices for piece in pieces]), torch.cat([piece.values for piece in pieces]).square()


def _assign(points: Tensor, centroids: Tensor) -> Tensor:
    return _nearest(points, centroids)[0].int()


def _within_capacity(
    residual: Tensor,
    centroids: Tensor,
    wanted: NDArray[np.int32],
    prefixes: NDArray[np.int32],
    capacity: int,
) -> NDArray[np.int32]:
    """Tokens near the wanted ones such that no prefix holds more than `capacity` items."""
    tokens = wanted.copy()
    group = _group_of(prefixes)
    key = group * len(centroids) + wanted
    _, place, sizes = np.unique(key, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(group.max() + 2))
    for crowded in np.unique(group[sizes[place] > capacity]):
        rows = order[bounds[crowded] : bounds[crowded + 1]]
        distance = torch.cdist(residual[torch.from_numpy(rows)], centroids).numpy()
        tokens[rows] = _one_each(distance) if capacity == 1 else _overflow(distance, capacity)
    return tokens


def _group_of(prefixes: NDArray[np.int32]) -> NDArray[np.int64]:
    if not prefixes.shape[1]:
        return np.zeros(len(prefixes), dtype=np.int64)
    return np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _one_each(distance: NDArray[np.float32]) -> NDArray[np.int32]:
    """distance [rows, V] → a different token for every row, least total distance."""
    return np.asarray(linear_sum_assignment(distance)[1], dtype=np.int32)


def _overflow(distance: NDArray[np.float32], capacity: int) -> NDArray[np.int32]:
    """distance [rows, V] → nearest tokens, nearest rows first, each token taken at most `capacity` times."""
    room = np.full(distance.shape[1], capacity)
    tokens = np.zeros(len(distance), dtype=np.int32)
    for row in distance.min(axis=1).argsort(kind="stable"):
        token = int(np.where(room > 0, distance[row], np.inf).argmin())
        tokens[row] = token
        room[token] -= 1
    return tokens


def additive_vectors(embeddings: NDArray[np.float32], codes: CodeTable) -> NDArray[np.float32]:
    """One vector per level and token, float32 [L, V, D], whose sums over an item's code approach embeddings [N, D].

    Level by level the mean of what is still unexplained over the items that carry the token; an unused token gets 0.
    """
    rest = np.array(embeddings, dtype=np.float32)
    vectors = np.zeros((codes.code_length, codes.tokens_per_level, rest.shape[1]), dtype=np.float32)
    for level in range(codes.code_length):
        tokens = codes.tokens[:, level]
        sizes = np.bincount(tokens, minlength=codes.tokens_per_level)
        np.add.at(vectors[level], tokens, rest)
        vectors[level] /= np.maximum(sizes, 1)[:, None]
        rest -= vectors[level][tokens]
    return vectors
