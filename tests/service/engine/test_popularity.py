"""The most popular legal items of a catalog whose order of popularity has many blocks."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.artifact import Artifact, ArtifactWriter
from models.codes import CodeTable
from models.config import ModelConfig
from models.prefix_output import PrefixOutput
from models.trie import CodeTrie
from service.engine.index import RANKED_BLOCK, LiveIndex
from service.engine.popularity import most_popular
from tests.service.plain_artifact import commit_plain

ITEMS, SPARE, SLOT = 12 * RANKED_BLOCK + 100, 50, 1
TOKENS, WIDTH = 256, 8
NONE: NDArray[np.int32] = np.empty(0, dtype=np.int32)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What an index reads of one: codes in the order of items, popularity in none, and no graph."""
    codes = CodeTable(np.stack(np.divmod(np.arange(ITEMS, dtype=np.int32), TOKENS), axis=1), TOKENS)
    trie = CodeTrie.build(codes)
    with ArtifactWriter(tmp_path_factory.mktemp("blocks") / "v1") as writer:
        writer.array("codes", codes.tokens)
        writer.array("leaf_item", trie.leaf_item)
        for level in range(trie.code_length):
            writer.array(f"child_start_{level}", trie.child_start[level])
            writer.array(f"child_token_{level}", trie.child_token[level])
        writer.prefix_output(PrefixOutput.of_first_items(trie, WIDTH))
        for name in ("item_input", "item_output"):
            writer.array(name, np.zeros((ITEMS, WIDTH), dtype=np.float32))
        writer.array("popularity", np.random.default_rng(0).permutation(ITEMS).astype(np.int32))
        config = ModelConfig(code_length=trie.code_length, tokens_per_level=TOKENS, width=WIDTH, heads=1)
        return commit_plain(writer, config, ITEMS)


@pytest.fixture
def index(artifact: Artifact) -> LiveIndex:
    return LiveIndex(artifact, spare_items=SPARE, cache_bytes=1_048_576)


def some(count: int, seed: int = 0) -> NDArray[np.int32]:
    """So many items, ascending."""
    return np.sort(np.random.default_rng(seed).choice(ITEMS, count, replace=False)).astype(np.int32)


def mask(items: NDArray[np.int32]) -> NDArray[np.bool_]:
    legal = np.zeros(ITEMS, dtype=np.bool_)
    legal[items] = True
    return legal


def in_order(index: LiveIndex, items: NDArray[np.int32]) -> list[int]:
    """The items from the most to the least popular."""
    order: NDArray[np.int32] = index.items_at(np.arange(ITEMS))
    return [int(item) for item in order[mask(items)[order]]]


def found(index: LiveIndex, excluded: NDArray[np.int32] = NONE, count: int = 10) -> list[int]:
    return [int(item) for item in index.items_at(most_popular(index, SLOT, excluded, count))]


@pytest.mark.parametrize("legal", [0, 1, 3, 10, 500, 20_000, ITEMS])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_first_legal_items_that_are_not_excluded_come_back(index: LiveIndex, legal: int, share: float) -> None:
    items = some(legal)
    index.fill(SLOT, mask(items))
    excluded = np.sort(np.array(in_order(index, items)[: int(share * legal)], dtype=np.int32))
    left = np.setdiff1d(items, excluded)
    for count in (1, 10, 5_000):
        assert found(index, excluded, count) == in_order(index, left)[:count]


def test_a_slot_that_gets_another_filter_forgets_the_one_before(index: LiveIndex) -> None:
    index.fill(SLOT, mask(some(20_000)))
    index.fill_few(SLOT, some(4, seed=1))
    assert found(index) == in_order(index, some(4, seed=1))
    index.fill(SLOT, mask(some(7, seed=2)))
    assert found(index) == in_order(index, some(7, seed=2))


def test_items_that_come_and_go_are_followed(index: LiveIndex) -> None:
    before, after = some(30), some(30, seed=1)
    index.fill(SLOT, mask(before))
    changed = np.setxor1d(before, after)
    at = index.whereabouts(index.state, changed)
    patch = index.difference(index.state, SLOT, at, np.isin(changed, after))
    assert patch is not None
    index.show(index.state, [patch], revision=1)
    assert found(index, count=50) == in_order(index, after)


def test_blocks_without_a_legal_item_are_not_read(index: LiveIndex) -> None:
    index.fill_few(SLOT, index.items_at(np.array([RANKED_BLOCK + 5, 7 * RANKED_BLOCK])))
    empty = np.flatnonzero(index.state.blocks[SLOT] == 0)
    index.state.ranked[SLOT].reshape(-1, RANKED_BLOCK)[empty] = True  # nobody may notice
    assert most_popular(index, SLOT, NONE, 10).tolist() == [RANKED_BLOCK + 5, 7 * RANKED_BLOCK]
