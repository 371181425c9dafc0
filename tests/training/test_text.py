from pathlib import Path

import numpy as np
import pytest

from training.errors import ConfigError
from training.text import Standardisation, encode_items


@pytest.mark.filterwarnings("ignore")
def test_the_sentence_encoder_puts_like_texts_together() -> None:
    titles = ["red nail polish", "crimson nail lacquer", "camping tent for two", "hiking tent, two persons"]
    raw = encode_items([{"item_id": str(n), "title": title} for n, title in enumerate(titles)], "minilm")
    vectors = Standardisation.of(raw)(raw)
    assert vectors.shape == (4, 384)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2]
    assert similarity[2, 3] > similarity[1, 3]


def test_precomputed_embeddings_are_standardised(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(5, 3, size=(100, 4)))
    raw = encode_items([{"item_id": str(n)} for n in range(100)], str(tmp_path / "e.npy"))
    vectors = Standardisation.of(raw)(raw)
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(vectors.std(axis=0), 1, atol=1e-5)


def test_a_constant_dimension_does_not_divide_by_zero(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.ones((3, 2)))
    raw = encode_items([{"item_id": str(n)} for n in range(3)], str(tmp_path / "e.npy"))
    assert not Standardisation.of(raw)(raw).any()


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((2, 3)), r"the catalog needs \[3, D\]"),
        (np.full((3, 2), np.nan), "not finite"),
        (np.full((3, 2), 1e300), "not finite"),
        (np.full((3, 2), "a"), "not one array of numbers"),
    ],
)
def test_a_wrong_array_is_refused(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    np.save(tmp_path / "e.npy", array)
    with pytest.raises(ConfigError, match=sentence):
        encode_items([{"item_id": str(n)} for n in range(3)], str(tmp_path / "e.npy"))
