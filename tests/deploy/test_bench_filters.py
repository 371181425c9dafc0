"""The benchmark of filters, at a size at which it takes no time."""

import numpy as np
import pytest

from deploy.bench_filters import bench, drawn_ids, free_codes
from deploy.synthetic import random_codes
from models.codes import CodeTable
from models.insertion import find
from models.trie import CodeTrie


@pytest.mark.parametrize("items", [1000, 2000])
def test_ids_are_those_of_the_catalog(items: int) -> None:
    assert sorted(drawn_ids(items, items, np.random.default_rng(0))) == [f"{number:08}" for number in range(items)]


def test_codes_that_are_inserted_are_free() -> None:
    would_be_drawn = random_codes(2000, 4, 256, np.random.default_rng(5))
    trie = CodeTrie.build(CodeTable(would_be_drawn.tokens[:300], 256))
    codes = free_codes(trie, 1000, np.random.default_rng(5))
    assert codes.shape == (1000, 4)
    assert (find(trie, codes) < 0).all()


def test_a_small_catalog_is_measured_whole(capsys: pytest.CaptureFixture[str]) -> None:
    bench(items=1000, rounds=1, threads=1)
    printed = capsys.readouterr().out
    assert printed.startswith("1,000 items, codes 4 × 256, states (1, ")
    assert "compile 100 include_items: median" in printed
    assert "apply 1000 changes, " in printed
    assert "insert 1000 into the trie: median" in printed
