"""The reference search against brute force over every code."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.beam import Candidates, beam_search, log_softmax
from models.trie import CodeTrie
from tests.tiny import random_codes

from .test_trie import leaf_codes

LENGTH, TOKENS = 3, 5


def random_logits(seed: int) -> NDArray[np.float32]:
    """One table per level, indexed by the tokens before: logits depend on the whole prefix."""
    return np.random.default_rng(seed).normal(size=(LENGTH, TOKENS**LENGTH, TOKENS)).astype(np.float32)


def prefix_row(prefixes: NDArray[np.int32]) -> NDArray[np.int64]:
    powers = TOKENS ** np.arange(prefixes.shape[1], dtype=np.int64)
    return np.asarray(prefixes.astype(np.int64) @ powers, dtype=np.int64)


def search(trie: CodeTrie, seed: int, width: int, legal: NDArray[np.bool_] | None = None) -> Candidates:
    logits = random_logits(seed)
    return beam_search(trie, lambda level, prefixes: logits[level][prefix_row(prefixes)], width, legal_leaf=legal)


def brute_force(trie: CodeTrie, seed: int, legal: NDArray[np.bool_]) -> list[tuple[float, int]]:
    logits, found = random_logits(seed), []
    codes = np.array(leaf_codes(trie), dtype=np.int32)
    for leaf in np.flatnonzero(legal).tolist():
        code = codes[leaf]
        total = 0.0
        for level in range(LENGTH):
            row = logits[level][prefix_row(code[None, :level])][0]
            alike = codes[(codes[:, :level] == code[:level]).all(axis=1)]
            siblings = np.unique(alike[:, level])
            total += float(log_softmax(row[siblings])[siblings == code[level]][0])
        found.append((total, leaf))
    return sorted(found, reverse=True)


@given(items=st.integers(1, 100), seed=st.integers(0, 2**31), share=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_a_beam_as_wide_as_the_catalog_is_exhaustive(items: int, seed: int, share: float) -> None:
    trie = CodeTrie.build(random_codes(items, LENGTH, TOKENS, seed))
    legal = np.random.default_rng(seed).random(items) < share
    if not legal.any():
        legal[0] = True
    expected = brute_force(trie, seed, legal)
    result = search(trie, seed, width=items, legal=legal)
    assert result.leaf.tolist() == [leaf for _, leaf in expected]
    np.testing.assert_allclose(result.score, [score for score, _ in expected], atol=1e-4)


@given(items=st.integers(1, 100), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_code_scores_are_log_probabilities_of_items(items: int, seed: int) -> None:
    trie = CodeTrie.build(random_codes(items, LENGTH, TOKENS, seed))
    legal = np.arange(items) % 2 == 0
    every = search(trie, seed, width=items)
    assert abs(np.exp(every.code_score.astype(np.float64)).sum() - 1) < 1e-5
    known = dict(zip(every.item.tolist(), every.code_score.tolist(), strict=True))
    some = search(trie, seed, width=items, legal=legal)  # what a request may not have does not make the rest likelier
    assert {item: known[item] for item in some.item.tolist()} == dict(
        zip(some.item.tolist(), some.code_score.tolist(), strict=True)
    )


@given(items=st.integers(1, 100), seed=st.integers(0, 2**31), width=st.integers(1, 8), excluded=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_a_narrow_beam_fills_its_places_with_legal_leaves(items: int, seed: int, width: int, excluded: int) -> None:
    trie = CodeTrie.build(random_codes(items, LENGTH, TOKENS, seed))
    legal = np.ones(items, dtype=bool)
    legal[: min(excluded, items - 1)] = False
    result = search(trie, seed, width, legal)
    assert len(result.leaf) == min(width, int(legal.sum()))
    assert len(set(result.leaf.tolist())) == len(result.leaf)
    assert legal[result.leaf].all()


def test_ties_go_to_the_lower_candidate() -> None:
    trie = CodeTrie.build(random_codes(TOKENS**LENGTH, LENGTH, TOKENS, seed=3))  # every code, so all are equally likely
    result = beam_search(trie, lambda _level, prefixes: np.zeros((len(prefixes), TOKENS), dtype=np.float32), 30)
    assert result.leaf.tolist() == list(range(30))


def test_rescoring_orders_the_beam_by_the_weighted_sum() -> None:
    trie = CodeTrie.build(random_codes(20, LENGTH, TOKENS, seed=5))
    logits = random_logits(5)
    item_score = np.random.default_rng(5).normal(size=20).astype(np.float32)
    plain = search(trie, 5, width=20)
    rescored = beam_search(
        trie,
        lambda level, prefixes: logits[level][prefix_row(prefixes)],
        20,
        values=[np.zeros(size, dtype=np.float32) for size in trie.states()[1:-1]] + [item_score[trie.leaf_item]],
        rescore_weight=2.0,
    )
    expected = {int(i): float(s + 2 * item_score[i]) for i, s in zip(plain.item, plain.code_score, strict=True)}
    assert rescored.item.tolist() == sorted(expected, key=lambda item: -expected[item])
    np.testing.assert_allclose(rescored.score, sorted(expected.values(), reverse=True), atol=1e-5)


def test_values_of_prefixes_lead_a_single_beam() -> None:
    """Without help from the decoder; a state of four tokens has no more children than the shortlist of one beam."""
    trie = CodeTrie.build(random_codes(40, 3, 4, seed=6))
    for wanted in range(0, 40, 7):
        values = [np.zeros(size, dtype=np.float32) for size in trie.states()[1:]]
        for level, states in enumerate(trie.ancestors(np.array([wanted], dtype=np.int32))):
            values[level][states] = 1.0
        found = beam_search(
            trie,
            lambda _level, prefixes: np.zeros((len(prefixes), 4), dtype=np.float32),
            1,
            values=values,
            rescore_weight=3.0,
        )
        assert found.leaf.tolist() == [wanted]
        np.testing.assert_allclose(found.score - found.code_score, 3.0, atol=1e-6)
