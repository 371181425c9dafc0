import numpy as np
import pytest
import torch

from models.codes import CodeTable
from models.errors import TrieError
from models.insertion import insert
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie
from tests.tiny import random_codes
from training import prefix_values
from training.prefix_values import fit_prefix_output, user_state_count

ITEMS, WIDTH = 120, 6
TRIE = CodeTrie.build(random_codes(ITEMS, 3, 8, seed=1))
ITEM_OUTPUT = np.random.default_rng(2).normal(0, 0.5, size=(ITEMS, WIDTH)).astype(np.float32)
STATES = torch.from_numpy(np.random.default_rng(3).normal(size=(400, WIDTH)))


def fitted() -> PrefixOutput:
    return fit_prefix_output(TRIE, ITEM_OUTPUT, STATES)


def test_a_prefix_of_one_item_is_worth_the_item_and_every_other_one_has_a_vector() -> None:
    found = fitted()
    found.check(TRIE)
    for row, first in zip(found.rows, TRIE.first_leaves()[1:-1], strict=True):
        alone = np.diff(first) == 1
        assert row[alone].tolist() == TRIE.leaf_item[first[:-1]][alone].tolist()
        assert (row[~alone] < 0).all()
    own = np.concatenate(found.rows)
    own = own[own < 0]
    assert sorted((-1 - own).tolist()) == list(range(len(found.vectors)))


def test_no_vector_nearby_comes_closer_to_the_logarithm_of_the_mass_below() -> None:
    found, states = fitted(), STATES.numpy()
    scores = ITEM_OUTPUT[TRIE.leaf_item] @ states.T
    first, row = TRIE.first_leaves()[2], found.rows[1]
    for state in np.flatnonzero(row < 0):
        mass = np.log(np.exp(scores[first[state] : first[state + 1]]).sum(axis=0))
        vector = found.vectors[-1 - row[state]]
        error = np.square(states @ vector - mass).sum()
        for other in np.random.default_rng(int(state)).normal(0, 0.1, size=(20, WIDTH)):
            assert error < np.square(states @ (vector + other) - mass).sum()


@pytest.mark.parametrize("at_once", [1, ITEMS * 7])
def test_any_number_of_user_states_at_once_gives_the_same_vectors(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    whole = fitted()
    monkeypatch.setattr(prefix_values, "_SCORES_AT_ONCE", at_once)
    parts = fitted()
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-5)
    assert all((a == b).all() for a, b in zip(parts.rows, whole.rows, strict=True))


def test_a_catalog_of_items_that_share_no_prefix_needs_no_vector_of_its_own() -> None:
    trie = CodeTrie.build(CodeTable(np.arange(24, dtype=np.int32).reshape(8, 3), 24))
    found = fit_prefix_output(trie, ITEM_OUTPUT[:8], STATES)
    found.check(trie)
    assert [row.tolist() for row in found.rows] == [list(range(8))] * 2


def test_scores_far_apart_neither_vanish_nor_overflow() -> None:
    found = fit_prefix_output(TRIE, 100 * ITEM_OUTPUT, STATES)
    assert np.isfinite(found.vectors).all()


def test_the_larger_a_catalog_the_fewer_user_states_but_never_too_few() -> None:
    assert user_state_count(12_101, 128, most=4096) == 4096
    assert user_state_count(1_000_000, 128, most=4096) == 2147
    assert user_state_count(10_000_000, 128, most=4096) == 512
    assert user_state_count(10_000_000, 128, most=100) == 100


def test_after_an_insertion_old_states_keep_their_rows_and_new_ones_are_worth_their_item() -> None:
    codes = random_codes(ITEMS + 60, 3, 8, seed=1).tokens
    taken = {tuple(code) for code in random_codes(ITEMS, 3, 8, seed=1).tokens.tolist()}
    new = np.array([code for code in codes.tolist() if tuple(code) not in taken], dtype=np.int32)
    items = np.arange(ITEMS, ITEMS + len(new), dtype=np.int32)
    insertion = insert(TRIE, new, items)
    before, after = fitted(), fitted().grown(insertion, items)
    after.check(insertion.trie)
    for level, (old, row) in enumerate(zip(before.rows, after.rows, strict=True)):
        fresh = insertion.before[level] + np.arange(insertion.before[level].size)
        assert np.delete(row, fresh).tolist() == old.tolist()
        first = insertion.trie.first_leaves()[level + 1]
        for state in fresh.tolist():
            assert row[state] in insertion.trie.leaf_item[first[state] : first[state + 1]]


def test_a_row_of_a_vector_that_is_not_there_is_found() -> None:
    found = fitted()
    wrong = found.rows[0].copy()
    wrong[0] = -1 - len(found.vectors)
    with pytest.raises(TrieError, match="not an int32 number of a vector"):
        PrefixOutput(found.vectors, (wrong, *found.rows[1:])).check(TRIE)
    with pytest.raises(TrieError, match="and not of"):
        PrefixOutput(found.vectors, found.rows[:1]).check(TRIE)
