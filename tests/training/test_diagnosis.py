"""Numbers about codes, on codes whose answer is known."""

import numpy as np
import pytest

from models.quantizer import quantize
from training.diagnosis import code_use, domination, explained_variance
from training.rqvae import quantize_by_autoencoder


def test_codes_made_of_one_modality_are_explained_by_it() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(600, 8)).astype(np.float32) for _ in range(2))
    tokens = quantize(a, 3, 16, seed=0).codes.tokens
    for level in domination(tokens, {"a": a, "b": b}):
        assert level["a"] > 4 * level["chance"]
        assert level["b"] < 2 * level["chance"] + 0.01


def test_tokens_tell_the_modality_they_are_made_of_and_nothing_of_the_other() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(600, 8)).astype(np.float32) for _ in range(2))
    codes = quantize(a, 3, 16, seed=0).codes
    levels = explained_variance(codes, {"a": a, "b": b, "nothing": np.ones_like(a)})
    assert [set(level) for level in levels] == [{"a", "b", "nothing", "chance"}] * 3
    assert levels[0]["a"] < levels[1]["a"] < levels[2]["a"] < 1
    for number, level in enumerate(levels, start=1):
        assert level["a"] > 0.25
        # Means of 16 random groups of 600 rows take 15 / 600 of the variance with them.
        assert level["chance"] == pytest.approx(number * 15 / 600, abs=0.02)
        assert level["b"] == pytest.approx(level["chance"], abs=0.03)
        assert level["nothing"] == 0


def test_use_and_collisions_are_counted() -> None:
    tokens = np.array([[0, 0], [0, 1], [1, 0], [2, 2]], dtype=np.int32)
    nearest = np.array([[0, 0], [0, 0], [1, 0], [2, 2]], dtype=np.int32)
    first, second = code_use(tokens, nearest, 4)
    assert first == {"used": 0.75, "perplexity": pytest.approx(2**1.5 / 4), "shared": 0.5, "shared_before": 0.5}
    assert (second["shared"], second["shared_before"]) == (0.0, 0.5)


def test_balanced_codes_use_every_token_evenly() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(900, 6)) * 0.1, rng.normal(size=(100, 6)) * 5]).astype(np.float32)
    plain, balanced = (quantize(rows, 3, 16, seed=0, balanced=wanted).codes.tokens for wanted in (False, True))
    assert np.bincount(plain[:, 0]).max() > 200
    assert np.bincount(balanced[:, 0]).max() <= 69  # 1,000 / 16 and a tenth
    assert len(np.unique(balanced, axis=0)) == 1000


def test_an_autoencoder_gives_unique_codes_and_uses_its_tokens() -> None:
    centres = np.random.default_rng(0).normal(size=(40, 24))
    rows = (centres[np.arange(800) % 40] + 0.3 * np.random.default_rng(1).normal(size=(800, 24))).astype(np.float32)
    made = quantize_by_autoencoder(rows, 3, 32, seed=0, steps=300)
    again = quantize_by_autoencoder(rows, 3, 32, seed=0, steps=300)
    assert np.array_equal(made.codes.tokens, again.codes.tokens)
    assert len(np.unique(made.codes.tokens, axis=0)) == 800
    assert min(made.codes.used_tokens()) >= 0.8 * 32
    # Items of one centre mostly share their first token: the codes say what is alike.
    first = made.codes.tokens[:, 0]
    same = np.mean([np.bincount(first[np.arange(800) % 40 == centre]).max() / 20 for centre in range(40)])
    assert same > 0.5
