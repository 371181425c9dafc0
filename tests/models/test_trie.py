from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.beam import legal_states
from models.codes import CodeTable
from models.errors import TrieError
from models.trie import CodeTrie
from tests.tiny import random_codes


def leaf_codes(trie: CodeTrie) -> list[list[int]]:
    """Codes as a walk from the root spells them, in the order of leaves."""
    prefixes: list[list[int]] = [[]]
    for starts, tokens in zip(trie.child_start, trie.child_token, strict=True):
        parents = np.repeat(np.arange(starts.size - 1), np.diff(starts)).tolist()
        prefixes = [[*prefixes[parent], token] for parent, token in zip(parents, tokens.tolist(), strict=True)]
    return prefixes


@given(items=st.integers(1, 64), length=st.integers(2, 4), tokens=st.integers(3, 9), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_leaves_spell_the_sorted_codes(items: int, length: int, tokens: int, seed: int) -> None:
    codes = random_codes(min(items, tokens**length), length, tokens, seed)
    trie = CodeTrie.build(codes)
    trie.check()
    assert leaf_codes(trie) == sorted(codes.tokens.tolist())
    assert codes.tokens[trie.leaf_item].tolist() == leaf_codes(trie)
    assert trie.leaf_item[trie.item_leaf].tolist() == list(range(codes.item_count))


def test_two_items_with_one_code_are_named() -> None:
    codes = CodeTable(np.array([[0, 1], [1, 1], [0, 1]], dtype=np.int32), 2)
    with pytest.raises(TrieError, match=r"items 0 and 2 share the code \[0, 1\]"):
        CodeTrie.build(codes)


def test_an_empty_catalog_is_refused() -> None:
    with pytest.raises(TrieError, match="at least one item"):
        CodeTrie.build(CodeTable(np.empty((0, 2), dtype=np.int32), 2))


def _trie() -> CodeTrie:
    return CodeTrie.build(random_codes(40, 3, 6, seed=1))


def _changed(array: NDArray[np.int32], place: int, value: int) -> NDArray[np.int32]:
    copy = array.copy()
    copy[place] = value
    return copy


@pytest.mark.parametrize("level", [0, 1, 2])
def test_check_finds_a_token_out_of_range(level: int) -> None:
    trie = _trie()
    tokens = [*trie.child_token]
    tokens[level] = _changed(tokens[level], 0, 6)
    with pytest.raises(TrieError):
        replace(trie, child_token=tuple(tokens)).check()


@pytest.mark.parametrize("level", [1, 2])
def test_check_finds_a_state_without_children(level: int) -> None:
    trie = _trie()
    starts = [*trie.child_start]
    starts[level] = _changed(starts[level], 1, 0)
    with pytest.raises(TrieError):
        replace(trie, child_start=tuple(starts)).check()


def test_check_finds_items_that_are_not_int32() -> None:
    trie = _trie()
    with pytest.raises(TrieError, match="leaf_item must be int32"):
        replace(trie, leaf_item=trie.leaf_item.astype(np.float64)).check()


def test_check_finds_an_item_named_twice() -> None:
    trie = _trie()
    with pytest.raises(TrieError, match="twice"):
        replace(trie, leaf_item=_changed(trie.leaf_item, 0, int(trie.leaf_item[1]))).check()


def test_check_finds_siblings_out_of_order() -> None:
    trie = _trie()
    tokens = trie.child_token[0][::-1].copy()
    with pytest.raises(TrieError, match="ascending"):
        replace(trie, child_token=(tokens, *trie.child_token[1:])).check()


@given(items=st.integers(1, 50), seed=st.integers(0, 2**31), share=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_dead_states_are_the_largest_subtrees_without_a_legal_leaf(items: int, seed: int, share: float) -> None:
    trie = CodeTrie.build(random_codes(items, 3, 4, seed))
    excluded = np.flatnonzero(np.random.default_rng(seed).random(items) < share).astype(np.int32)
    legal = np.ones(items, dtype=bool)
    legal[excluded] = False
    alive = legal_states(trie, legal)
    for level, dead in enumerate(trie.dead_states(excluded)):
        listed = set((trie.child_start[level][dead.parent] + dead.offset).tolist())
        above = alive[level - 1] if level else np.ones(1, dtype=bool)
        parents = np.repeat(np.arange(len(above)), np.diff(trie.child_start[level]))
        expected = set(np.flatnonzero(~alive[level] & above[parents]).tolist())
        assert listed == expected


def test_dead_states_of_nothing_are_empty() -> None:
    assert all(not dead.parent.size for dead in _trie().dead_states(np.empty(0, dtype=np.int32)))


@given(items=st.integers(1, 50), seed=st.integers(0, 2**31), events=st.integers(1, 48))
@settings(max_examples=150, deadline=None)
def test_a_leaf_that_is_named_again_counts_once(items: int, seed: int, events: int) -> None:
    trie = CodeTrie.build(random_codes(items, 3, 4, seed))
    taken = np.random.default_rng(seed).integers(items, size=events).astype(np.int32)
    for again, once in zip(trie.dead_states(taken), trie.dead_states(np.unique(taken)), strict=True):
        found = zip(again.parent.tolist(), again.offset.tolist(), strict=True)
        assert sorted(found) == sorted(zip(once.parent.tolist(), once.offset.tolist(), strict=True))


@given(items=st.integers(1, 50), seed=st.integers(0, 2**31), share=st.floats(0, 1), legal_share=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_dead_states_under_a_filter_have_no_legal_leaf_left(
    items: int, seed: int, share: float, legal_share: float
) -> None:
    """With what the counts hide already they leave exactly the legal leaves, and no dead end."""
    trie = CodeTrie.build(random_codes(items, 3, 4, seed))
    rng = np.random.default_rng(seed)
    legal = rng.random(items) < legal_share
    excluded = rng.permutation(np.flatnonzero(rng.random(items) < share)).astype(np.int32)
    counts = trie.count_leaves(legal)
    left = legal.copy()
    left[excluded] = False
    alive, alive_before = legal_states(trie, left), legal_states(trie, legal)
    for level, dead in enumerate(trie.dead_states(excluded, counts)):
        listed = set((trie.child_start[level][dead.parent] + dead.offset).tolist())
        above = alive[level - 1] if level else np.ones(1, dtype=bool)
        parents = np.repeat(np.arange(len(above)), np.diff(trie.child_start[level]))
        assert listed == set(np.flatnonzero(alive_before[level] & ~alive[level] & above[parents]).tolist())


@given(items=st.integers(1, 50), seed=st.integers(0, 2**31), share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_leaves_are_counted_below_every_state(items: int, seed: int, share: float) -> None:
    trie = CodeTrie.build(random_codes(items, 4, 3, seed))
    legal = np.random.default_rng(seed).random(items) < share
    codes = np.array(leaf_codes(trie))
    for level, counts in enumerate(trie.count_leaves(legal), start=1):
        _, state = np.unique(codes[:, :level], axis=0, return_inverse=True)
        assert counts.tolist() == np.bincount(state.ravel(), weights=legal).tolist()


def test_ancestors_are_the_states_on_the_way_to_a_leaf() -> None:
    trie = _trie()
    path = trie.ancestors(np.array([0, 39, 17], dtype=np.int32))
    for place, leaf in enumerate([0, 39, 17]):
        tokens = [int(trie.child_token[level][states[place]]) for level, states in enumerate(path)]
        assert tokens == leaf_codes(trie)[leaf]


def test_counts_may_be_longer_than_the_trie() -> None:
    trie = _trie()
    longer = [np.append(counts, np.int32(99)) for counts in trie.leaf_counts]
    leaves = np.arange(0, 40, 3, dtype=np.int32)
    for short, long in zip(trie.dead_states(leaves), trie.dead_states(leaves, longer), strict=True):
        assert (short.parent.tolist(), short.offset.tolist()) == (long.parent.tolist(), long.offset.tolist())
