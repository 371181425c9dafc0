"""Ranking metrics against values worked out by hand, and the bootstrap against resampling user by user."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import metric_table, ndcg_at, paired_bootstrap, ranks_of_targets, recall_at


def test_ranks_are_places_from_zero_and_minus_one_when_absent() -> None:
    candidates = [[7, 8, 9], [7, 8, 9], [7, 8, 9], [9, -1, -1]]
    assert ranks_of_targets(candidates, [7, 9, 5, 9]).tolist() == [0, 2, -1, 0]
    assert ranks_of_targets(np.zeros((2, 0), dtype=np.int32), [1, 2]).tolist() == [-1, -1]


def test_recall_and_ndcg_by_hand() -> None:
    ranks = [0, 2, 4, 5, -1]
    assert recall_at(ranks, 1) == pytest.approx(1 / 5)
    assert recall_at(ranks, 5) == pytest.approx(3 / 5)
    assert recall_at(ranks, 6) == pytest.approx(4 / 5)
    assert ndcg_at(ranks, 1) == pytest.approx(1 / 5)
    assert ndcg_at(ranks, 3) == pytest.approx((1 + 0.5) / 5)  # log2(2) = 1, log2(4) = 2
    assert ndcg_at([6], 10) == pytest.approx(1 / 3)  # log2(8) = 3


def test_metric_table_has_the_published_cutoffs() -> None:
    table = metric_table([0, 6, 14, 20])
    assert list(table) == ["recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20"]
    expected = [1 / 4, 2 / 4, 3 / 4, 1 / 4, (1 + 1 / 3) / 4, (1 + 1 / 3 + 1 / 4) / 4]
    assert list(table.values()) == pytest.approx(expected)


@given(
    lists=st.lists(st.permutations(range(8)), min_size=1, max_size=20),
    shown=st.integers(0, 8),
    k=st.integers(1, 10),
    data=st.data(),
)
def test_metrics_equal_a_plain_loop(lists: list[list[int]], shown: int, k: int, data: st.DataObject) -> None:
    targets = [data.draw(st.integers(0, 9)) for _ in lists]
    recall = ndcg = 0.0
    for items, target in zip(lists, targets, strict=True):
        for place, item in enumerate(items[:shown]):
            if item == target and place < k:
                recall += 1
                ndcg += math.log(2) / math.log(place + 2)
    ranks = ranks_of_targets([items[:shown] for items in lists], targets)
    assert recall_at(ranks, k) == pytest.approx(recall / len(lists))
    assert ndcg_at(ranks, k) == pytest.approx(ndcg / len(lists))


def test_no_ranks_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no ranks"):
        metric_table([])


def test_bootstrap_agrees_with_resampling_users_one_by_one() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(200) < 0.4, rng.random(200) < 0.3
    difference = a.astype(float) - b.astype(float)
    slow = [difference[rng.integers(0, 200, 200)].mean() for _ in range(10_000)]

    result = paired_bootstrap(a, b)

    assert result.mean_difference == pytest.approx(difference.mean())
    assert [result.low, result.high] == pytest.approx(np.percentile(slow, [2.5, 97.5]).tolist(), abs=0.011)
    assert result.p_value == pytest.approx(2 * np.mean(np.array(slow) <= 0), abs=0.015)


def test_bootstrap_is_paired() -> None:
    """The same gain for every user leaves nothing to chance, however much users differ."""
    hard_and_easy = np.linspace(0, 1, 100)
    result = paired_bootstrap(hard_and_easy + 0.25, hard_and_easy, samples=500)
    assert (result.low, result.high) == pytest.approx((0.25, 0.25))
    assert result.p_value == pytest.approx(2 / 501)


def test_bootstrap_of_equal_models_sees_no_difference() -> None:
    result = paired_bootstrap([1, 0, 1], [1, 0, 1], samples=100)
    assert (result.mean_difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_bootstrap_is_symmetric_in_what_it_concludes_and_repeats_itself() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(300), rng.random(300)
    forward, backward = paired_bootstrap(a, b, samples=4000), paired_bootstrap(b, a, samples=4000)
    assert forward == paired_bootstrap(a, b, samples=4000)
    assert forward.p_value == pytest.approx(backward.p_value, abs=0.04)
    assert forward.low == pytest.approx(-backward.high, abs=0.01)


@pytest.mark.parametrize(("a", "b"), [([1, 0], [1]), ([], []), ([[1]], [[0]])])
def test_bootstrap_refuses_unpaired_values(a: list[int], b: list[int]) -> None:
    with pytest.raises(ValueError, match="one value for each of the same users"):
        paired_bootstrap(a, b)
