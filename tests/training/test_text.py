from pathlib import Path

import numpy as np
import pytest

from training.errors import ConfigError
from training.text import encode_items, item_text


def test_the_text_begins_with_what_names_the_item() -> None:
    item = {"item_id": "1", "year": 1995, "genres": ["Animation", "Comedy"], "title": "Toy Story", "empty": None}
    assert item_text(item) == "Toy Story. Animation, Comedy. 1995"


def test_an_item_without_text_is_its_id() -> None:
    assert item_text({"item_id": "B00X"}) == "B00X"


@pytest.mark.filterwarnings("ignore")
def test_the_sentence_encoder_puts_like_texts_together() -> None:
    titles = ["red nail polish", "crimson nail lacquer", "camping tent for two", "hiking tent, two persons"]
    vectors = encode_items([{"item_id": str(n), "title": title} for n, title in enumerate(titles)], "minilm")
    assert vectors.shape == (4, 384)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2]
    assert similarity[2, 3] > similarity[1, 3]


def test_precomputed_embeddings_are_standardised(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(5, 3, size=(100, 4)))
    vectors = encode_items([{"item_id": str(n)} for n in range(100)], str(tmp_path / "e.npy"))
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(vectors.std(axis=0), 1, atol=1e-5)


def test_a_constant_dimension_does_not_divide_by_zero(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.ones((3, 2)))
    assert np.isfinite(encode_items([{"item_id": str(n)} for n in range(3)], str(tmp_path / "e.npy"))).all()


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
