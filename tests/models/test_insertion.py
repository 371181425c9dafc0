import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.codes import CodeTable
from models.errors import TrieError
from models.insertion import find, insert, spread
from models.trie import CodeTrie
from tests.tiny import random_codes


def split(items: int, kept: int, length: int, tokens: int, seed: int) -> tuple[CodeTable, CodeTrie, NDArray[np.int32]]:
    """All codes, the trie of the first `kept` of them, and the other items."""
    codes = random_codes(items, length, tokens, seed)
    trie = CodeTrie.build(CodeTable(codes.tokens[:kept], tokens))
    return codes, trie, np.arange(kept, items, dtype=np.int32)


def equal(one: CodeTrie, other: CodeTrie) -> bool:
    pairs = zip(
        (*one.child_start, *one.child_token, one.leaf_item), (*other.child_start, *other.child_token, other.leaf_item),
        strict=True,
    )  # fmt: skip
    return all(a.dtype == b.dtype and a.tolist() == b.tolist() for a, b in pairs)


SIZES = {"items": st.integers(2, 80), "share": st.floats(0.01, 0.99), "seed": st.integers(0, 2**31)}
SHAPES = st.sampled_from([(3, 5), (1, 100), (2, 9), (4, 3), (8, 2)])


@given(shape=SHAPES, **SIZES)
@settings(max_examples=150, deadline=None)
def test_inserting_gives_the_trie_that_building_gives(
    shape: tuple[int, int], items: int, share: float, seed: int
) -> None:
    kept = max(1, min(items - 1, int(items * share)))
    codes, trie, new = split(items, kept, *shape, seed)
    before = [array.copy() for array in (*trie.child_start, *trie.child_token, trie.leaf_item)]
    merged = insert(trie, codes.tokens[new], new).trie
    merged.check()
    assert equal(merged, CodeTrie.build(codes))
    assert all(
        (a == b).all() for a, b in zip(before, (*trie.child_start, *trie.child_token, trie.leaf_item), strict=True)
    )


@given(shape=SHAPES, **SIZES)
@settings(max_examples=100, deadline=None)
def test_what_belongs_to_old_states_finds_its_new_place(
    shape: tuple[int, int], items: int, share: float, seed: int
) -> None:
    """Counts, spread and raised on the way to each new leaf, are those of the new trie."""
    codes, trie, new = split(items, max(1, min(items - 1, int(items * share))), *shape, seed)
    insertion = insert(trie, codes.tokens[new], new)
    for level, expected in enumerate(insertion.trie.leaf_counts):
        counts = spread(trie.leaf_counts[level], insertion.before[level], 0)
        np.add.at(counts, insertion.states[level], 1)
        assert counts.tolist() == expected.tolist()
    assert insertion.trie.leaf_item[insertion.states[-1]].tolist() == new.tolist()


@given(shape=SHAPES, **SIZES)
@settings(max_examples=60, deadline=None)
def test_a_code_is_found_where_it_is(shape: tuple[int, int], items: int, share: float, seed: int) -> None:
    codes, trie, new = split(items, max(1, min(items - 1, int(items * share))), *shape, seed)
    leaves = find(trie, codes.tokens)
    assert leaves[new].tolist() == [-1] * len(new)
    assert trie.leaf_item[leaves[: len(codes.tokens) - len(new)]].tolist() == list(range(len(codes.tokens) - len(new)))


def test_a_code_that_is_taken_is_refused() -> None:
    codes, trie, _ = split(20, 15, 3, 5, seed=1)
    with pytest.raises(TrieError, match=r"of item 21 is taken"):
        insert(trie, codes.tokens[[17, 4]], np.array([20, 21], dtype=np.int32))


def test_a_code_given_twice_is_refused() -> None:
    codes, trie, _ = split(20, 15, 3, 5, seed=1)
    with pytest.raises(TrieError, match="taken"):
        insert(trie, codes.tokens[[17, 17]], np.array([20, 21], dtype=np.int32))


@pytest.mark.parametrize("token", [-1, 5])
def test_a_token_out_of_range_is_refused(token: int) -> None:
    _, trie, _ = split(20, 15, 3, 5, seed=1)
    with pytest.raises(TrieError, match="outside 0 … 4"):
        insert(trie, np.array([[0, token, 0]], dtype=np.int32), np.array([20], dtype=np.int32))


@given(
    size=st.integers(0, 30), before=st.lists(st.integers(0, 30), max_size=10), longer=st.integers(0, 3)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_spread_is_numpy_s_insert(size: int, before: list[int], longer: int) -> None:
    old = np.arange(size, dtype=np.int32)
    at = np.sort(np.minimum(np.array(before, dtype=np.int64), size))
    values = -1 - np.arange(len(before), dtype=np.int32)
    out = np.full(size + len(before) + longer, 77, dtype=np.int32)
    expected = np.insert(old, at, values).tolist()
    assert spread(old, at, values).tolist() == expected
    assert spread(old, at, values, out=out).tolist() == [*expected, *[77] * longer]
