import numpy as np

from training.co_occurrence import co_occurrence_vectors
from training.interactions import Sequences


def sequences(histories: list[list[int]]) -> Sequences:
    offsets = np.cumsum([0, *map(len, histories)])
    return Sequences(offsets, np.array([item for history in histories for item in history], dtype=np.int32))


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def test_items_that_the_same_users_take_are_near_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    groups = [list(rng.permutation(10)[:4] + 10 * (user % 3)) for user in range(120)]
    vectors = co_occurrence_vectors(sequences(groups), 31, width=3)
    assert vectors.shape == (31, 3)
    assert vectors.dtype == np.float32
    near = cosines(vectors[:30]).reshape(3, 10, 3, 10).mean(axis=(1, 3))
    assert near.diagonal().min() > 0.9
    assert np.abs(near - np.diag(near.diagonal())).max() < 0.1
    assert not vectors[30].any()  # nobody took it


def test_popularity_and_repetition_alone_make_nothing_near() -> None:
    # Everybody takes item 0 and one of two others, some again and again: the two are never taken together.
    histories = [[0, 1 + user % 2] + [1 + user % 2] * (user % 5) for user in range(60)]
    vectors = co_occurrence_vectors(sequences(histories), 3, width=2)
    once = co_occurrence_vectors(sequences([[0, 1 + user % 2] for user in range(60)]), 3, width=2)
    np.testing.assert_allclose(cosines(vectors), cosines(once), atol=1e-5)
    assert cosines(vectors)[1, 2] < 0.1


def test_the_same_data_give_the_same_vectors() -> None:
    histories = [[user % 7, (user + 1) % 7, (user * 3) % 7] for user in range(40)]
    a, b = (co_occurrence_vectors(sequences(histories), 7) for _ in range(2))
    assert a.shape == (7, 6)  # as many as the data allow
    np.testing.assert_array_equal(a, b)
