import numpy as np
import pytest
from numpy.typing import NDArray

from models.free_codes import Taken, free_codes

NOBODY: NDArray[np.int32] = np.empty((0, 2), dtype=np.int32)


def codebooks(length: int, tokens: int, width: int = 4, seed: int = 0) -> NDArray[np.float32]:
    """Each level's centroids lie closer together than those before it."""
    scale = 4.0 ** -np.arange(length)[:, None, None]
    return (np.random.default_rng(seed).normal(size=(length, tokens, width)) * scale).astype(np.float32)


def points(count: int, width: int = 4, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def owned(codes: NDArray[np.int32]) -> Taken:
    """Codes that items have already."""
    rows = {tuple(row) for row in codes.tolist()}
    return lambda asked: np.array([tuple(row) in rows for row in asked.tolist()], dtype=bool)


def nearest(embeddings: NDArray[np.float32], books: NDArray[np.float32]) -> NDArray[np.int32]:
    """Residual quantization, an item and a level at a time."""
    codes = np.zeros((len(embeddings), len(books)), dtype=np.int32)
    for row, point in enumerate(embeddings):
        for level, centroids in enumerate(books):
            codes[row, level] = np.square(point - centroids).sum(axis=1).argmin()
            point = point - centroids[codes[row, level]]
    return codes


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_free_nearest_code_is_taken(length: int) -> None:
    books = codebooks(length, 32)
    for point in points(20):
        assert free_codes(point[None], books, owned(NOBODY)).tolist() == nearest(point[None], books).tolist()


def test_codes_are_free_and_all_different() -> None:
    books, embeddings = codebooks(3, 8), points(300)
    before = free_codes(points(150, seed=2), books, owned(NOBODY))
    codes = free_codes(embeddings, books, owned(before))
    assert len(np.unique(np.concatenate([before, codes]), axis=0)) == 450


def test_a_taken_code_gives_way_to_the_next_nearest_last_token() -> None:
    books, point = codebooks(2, 8), points(1)
    first = nearest(point, books)
    residual = point[0] - books[0][first[0, 0]]
    order = np.square(residual - books[1]).sum(axis=1).argsort()
    code = free_codes(point, books, owned(first))
    assert code.tolist() == [[first[0, 0], order[1]]]


def test_equal_embeddings_fill_a_prefix_and_go_on_in_the_next_nearest() -> None:
    books, point = codebooks(2, 8), points(1)
    codes = free_codes(np.repeat(point, 20, axis=0), books, owned(NOBODY))
    by_distance = np.square(point - books[0]).sum(axis=1).argsort()
    assert codes[:, 0].tolist() == [by_distance[n // 8] for n in range(20)]
    assert len(np.unique(codes, axis=0)) == 20


def test_a_full_first_token_is_left() -> None:
    books, point = codebooks(3, 4), points(1)
    full = nearest(point, books)[0, 0]
    below = np.stack(np.meshgrid(range(4), range(4), indexing="ij"), axis=-1).reshape(-1, 2)
    taken = np.concatenate([np.full((16, 1), full), below], axis=1).astype(np.int32)
    code = free_codes(point, books, owned(taken))
    assert code[0, 0] == np.square(point - books[0]).sum(axis=1).argsort()[1]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_last_free_code_is_found_and_then_there_is_none(length: int) -> None:
    books = codebooks(length, 3)
    codes = free_codes(points(3**length), books, owned(NOBODY))
    assert len(np.unique(codes, axis=0)) == 3**length
    assert free_codes(points(1), books, owned(codes[1:])).tolist() == codes[:1].tolist()
    assert free_codes(points(1), books, owned(codes)).tolist() == [[-1] * length]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_where_codes_run_out_each_that_is_left_is_given_to_somebody(length: int) -> None:
    every = np.array(list(np.ndindex((3,) * length)), dtype=np.int32)
    found = free_codes(points(5), codebooks(length, 3), owned(every[2:]))
    assert sorted(found.tolist()) == [*[[-1] * length] * 3, *every[:2].tolist()]


def test_every_code_is_found_from_farther_away_than_a_distance_can_say() -> None:
    books, far = np.abs(codebooks(2, 8)) + 1, np.full((64, 4), -3e38, dtype=np.float32)
    with np.errstate(over="ignore"):
        codes = free_codes(far, books, owned(NOBODY))
    assert len(np.unique(codes, axis=0)) == 64


def test_pieces_of_a_large_request_do_not_share_codes() -> None:
    books = codebooks(1, 65_536, width=2)  # a piece of the work is 64 rows
    codes = free_codes(np.repeat(points(1, width=2), 200, axis=0), books, lambda asked: asked[:, 0] % 2 == 0)
    assert len(np.unique(codes)) == 200
    assert (codes % 2 == 1).all()
