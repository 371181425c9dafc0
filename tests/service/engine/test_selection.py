import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.selection import most_alike, select
from service.frames import Query


def query(k: int, diversity: float = 0.0, min_score: float | None = None) -> Query:
    return Query(1, [], k, math.inf, diversity=diversity, min_score=min_score)


def falling(count: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return -np.arange(count, dtype=np.float32)


@pytest.mark.parametrize(
    ("k", "diversity", "most"),
    [(10, 0.0, 10), (10, 0.5, 5), (10, 0.7, 3), (10, 0.9, 1), (10, 1.0, 1), (3, 0.5, 2), (1, 0.3, 1), (20, 0.95, 1)],
)
def test_how_many_may_be_alike(k: int, diversity: float, most: int) -> None:
    assert most_alike(k, diversity) == most


def test_without_wishes_the_first_k_are_chosen() -> None:
    selection = select(falling(8), None, query(3))
    assert (selection.places.tolist(), list(selection.warnings)) == ([0, 1, 2], [])


def test_diversity_skips_items_that_are_too_many_of_a_kind() -> None:
    tokens = np.array([1, 1, 1, 2, 1, 3], dtype=np.int32)
    selection = select(falling(6), tokens, query(4, diversity=0.5))
    assert (selection.places.tolist(), list(selection.warnings)) == ([0, 1, 3, 5], [])


def test_where_too_few_kinds_are_found_the_best_left_fill_up_in_order_of_score() -> None:
    tokens = np.array([1, 1, 1, 1, 2], dtype=np.int32)
    selection = select(falling(5), tokens, query(4, diversity=1.0))
    assert selection.places.tolist() == [0, 1, 2, 4]
    assert selection.warnings == ["2 items are more alike than diversity asks for, because too few others were found"]


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 20), st.floats(0, 1))
def test_diversity_keeps_its_promise_or_says_that_it_could_not(tokens: list[int], k: int, diversity: float) -> None:
    selection = select(falling(len(tokens)), np.array(tokens, dtype=np.int32), query(k, diversity))
    places = selection.places.tolist()
    assert places == sorted(set(places))
    assert len(places) == min(k, len(tokens))
    most, kinds = most_alike(k, diversity), Counter(tokens)
    possible = sum(min(most, count) for count in kinds.values())
    chosen = Counter(tokens[place] for place in places)
    assert bool(selection.warnings) == (possible < min(k, len(tokens)))
    if not selection.warnings:
        assert max(chosen.values(), default=0) <= most


def test_items_below_min_score_are_cut_and_counted() -> None:
    selection = select(falling(6), None, query(5, min_score=-2.0))
    assert selection.places.tolist() == [0, 1, 2]
    assert selection.warnings == ["2 items are below min_score"]


def test_diversity_takes_no_item_below_min_score_in_place_of_a_good_one() -> None:
    tokens = np.array([1, 1, 1, 2, 3], dtype=np.int32)
    selection = select(falling(5), tokens, query(3, diversity=1.0, min_score=-2.0))
    assert selection.places.tolist() == [0, 1, 2]
    assert selection.warnings == ["2 items are more alike than diversity asks for, because too few others were found"]


def test_an_item_at_min_score_stays() -> None:
    assert select(falling(1), None, query(1, min_score=0.0)).places.tolist() == [0]
    assert select(falling(1), None, query(1, min_score=0.1)).places.tolist() == []
