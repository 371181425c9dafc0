from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.errors import CodeError
from models.quantizer import additive_vectors, assign_unique, quantize
from tests.tiny import random_codes


def clustered(items: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, 12))
    return (centres[rng.integers(8, size=items)] + 0.2 * rng.normal(size=(items, 12))).astype(np.float32)


def test_codes_are_unique_and_use_every_token() -> None:
    made = quantize(clustered(400), 3, 16, seed=0)
    assert len(np.unique(made.codes.tokens, axis=0)) == 400
    assert made.codes.used_tokens() == [16, 16, 16]


def test_equal_embeddings_still_get_different_codes() -> None:
    made = quantize(np.ones((30, 4), dtype=np.float32), 2, 6, seed=0)
    assert len(np.unique(made.codes.tokens, axis=0)) == 30
    assert made.collision_rate == 1.0


def test_a_full_code_space_is_filled_to_the_last_code() -> None:
    made = quantize(clustered(64), 3, 4, seed=1)
    assert len(np.unique(made.codes.tokens, axis=0)) == 64


class Largest(TorchDispatchMode):
    """Remembers how many values the largest result held that torch made meanwhile."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor):
            self.values = max(self.values, result.numel())
        return result


def test_many_tokens_take_no_more_memory_at_once() -> None:
    with Largest() as largest:
        assign_unique(torch.rand(1024, 2), torch.rand(2, 65_536, 2))
    assert 2**23 < largest.values <= 2**24


def test_more_items_than_codes_are_refused() -> None:
    with pytest.raises(CodeError, match="do not fit"):
        quantize(clustered(65), 3, 4, seed=0)


def test_near_items_share_their_first_token() -> None:
    points = clustered(200)
    tokens = quantize(points, 3, 8, seed=0).codes.tokens[:, 0]
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (tokens == tokens[distance.argmin(axis=1)]).mean() > 0.9


def test_the_seed_decides_the_codes() -> None:
    first, again, other = (quantize(clustered(300), 3, 16, seed=seed).codes.tokens for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_additive_vectors_approach_the_embeddings_level_by_level() -> None:
    points = clustered(300)
    codes = quantize(points, 3, 16, seed=0).codes
    vectors = additive_vectors(points, codes)
    errors = []
    for levels in (1, 2, 3):
        total = sum(vectors[level][codes.tokens[:, level]] for level in range(levels))
        errors.append(float(np.square(points - total).mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1 * float(np.square(points - points.mean(axis=0)).mean())


def test_additive_vectors_of_unused_tokens_are_zero() -> None:
    codes = random_codes(3, 2, 8, seed=0)
    vectors = additive_vectors(np.ones((3, 4), dtype=np.float32), codes)
    unused = np.setdiff1d(np.arange(8), codes.tokens[:, 0])
    assert not vectors[0][unused].any()
