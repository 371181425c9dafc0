"""Batches in parts: the same answers in the same order, and what goes wrong is told."""

import gc
import threading
import time
from typing import Any

import numpy as np
import pytest

from models.artifact import Artifact
from models.graph import SearchRow
from service.engine.parts import PartThreads, split_by_length
from service.engine.search import GraphSearch, Shape


def rows(lengths: list[int]) -> list[SearchRow]:
    rng = np.random.default_rng(4)
    return [SearchRow(rng.integers(0, 60, size).astype(np.int32)) for size in lengths]


def test_a_batch_in_parts_answers_as_a_batch_in_one(artifact: Artifact) -> None:
    one, many = GraphSearch(artifact, 1), GraphSearch(artifact, 3)
    batch = rows([6, 1, 0, 5, 2, 6, 9, 1])
    whole, parts = (search.run(batch, Shape(8, 6)) for search in (one, many))
    assert parts.item.tolist() == whole.item.tolist()
    for name in ("score", "code_score", "prefix_score"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-4)
    assert parts.legal.shape == parts.item.shape
    assert parts.run_s > 0


def test_parts_that_one_thread_runs_one_after_the_other_add_up(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, inside_s = GraphSearch(artifact, 1), 0.0
    run = search._search

    def counted(*arguments: Any) -> Any:
        nonlocal inside_s
        arrays, run_s = run(*arguments)
        inside_s += run_s
        return arrays, run_s

    monkeypatch.setattr(search, "_search", counted)
    assert search.run(rows([5] * 64), Shape(8, 6)).run_s == pytest.approx(inside_s)


def test_what_one_part_raises_is_raised_after_all_have_ended() -> None:
    threads = PartThreads[int](2)
    ended = []

    def fail() -> int:
        raise ValueError("broken")

    def slow() -> int:
        time.sleep(0.1)
        ended.append(True)
        return 1

    with pytest.raises(ValueError, match="broken"):
        threads.run([fail, slow, slow])
    assert ended == [True, True]
    assert threads.run([slow, lambda: 2, lambda: 3]) == [1, 2, 3]


def test_parts_run_at_the_same_time() -> None:
    threads, meet = PartThreads[int](2), threading.Barrier(3, timeout=10)
    assert sorted(threads.run([meet.wait] * 3)) == [0, 1, 2]


def test_threads_end_with_their_owner() -> None:
    before = set(threading.enumerate())
    threads = PartThreads[int](3)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    del threads
    gc.collect()
    for thread in mine:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in mine)


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(1, 4, [1]), (3, 4, [3]), (4, 4, [2, 2]), (10, 2, [5, 5]), (64, 2, [16] * 4), (31, 1, [31])],
)
def test_parts_are_of_equal_size_and_not_too_small(count: int, most: int, sizes: list[int]) -> None:
    assert [len(part) for part in split_by_length(rows([1] * count), most)] == sizes


def test_short_histories_share_a_part_that_has_more_rows() -> None:
    assert split_by_length(rows([5, 1, 4, 0]), 2) == [[0, 2], [1, 3]]
    long, short = split_by_length(rows([50, 1] * 8), 2)
    assert set(long) < set(range(0, 16, 2))
    assert len(long) < len(short)
    assert sorted(long + short) == list(range(16))


def test_one_thread_runs_all_parts_itself() -> None:
    assert PartThreads[int](0).run([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]
