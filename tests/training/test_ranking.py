import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import TrainingError
from training.interactions import Holdout
from training.ranking import full_ranks, sampled, sampled_rows


def holdout() -> Holdout:
    """Two users: history 0, 1 → target 2, and history 3 → target 0."""
    return Holdout(
        user=np.array([0, 1]),
        target=np.array([2, 0], dtype=np.int32),
        events=np.array([0, 1, 2, 3, 0], dtype=np.int32),
        start=np.array([0, 3]),
        stop=np.array([2, 4]),
    )


def scores(table: list[list[float]]) -> Tensor:
    return torch.tensor(table)


def test_ranks_with_and_without_the_history() -> None:
    table = [[9.0, 8.0, 7.0, 1.0], [2.0, 3.0, 1.0, 9.0]]
    assert full_ranks(holdout(), lambda _: scores(table), mask_history=False).tolist() == [2, 2]
    assert full_ranks(holdout(), lambda _: scores(table), mask_history=True).tolist() == [0, 1]


def test_equal_scores_win_nothing() -> None:
    assert full_ranks(holdout(), lambda _: torch.zeros(2, 4), mask_history=False).tolist() == [2, 2]


def test_a_target_taken_again_stays_in_a_masked_ranking() -> None:
    again = Holdout(
        user=np.array([0]),
        target=np.array([1], dtype=np.int32),
        events=np.array([0, 1, 2, 1], dtype=np.int32),
        start=np.array([0]),
        stop=np.array([3]),
    )
    assert full_ranks(again, lambda _: scores([[9.0, 1.0, 8.0, 2.0]]), mask_history=True).tolist() == [1]


def test_a_sample_of_users_is_fixed_and_not_the_first() -> None:
    many = Holdout(
        user=np.arange(100),
        target=np.zeros(100, dtype=np.int32),
        events=np.zeros(100, dtype=np.int32),
        start=np.arange(100),
        stop=np.arange(100),
    )
    rows = sampled_rows(many, 10)
    assert rows.tolist() == sampled_rows(many, 10).tolist()
    assert len(set(rows.tolist())) == 10
    assert rows.max() > 50
    few = sampled(many, 10)
    for column in (few.user, few.start, few.stop):
        assert column.tolist() == rows.tolist()
    assert len(few.target) == 10


def test_histories_reach_the_method_oldest_first() -> None:
    seen: list[list[int]] = []

    def method(histories: list[NDArray[np.int32]]) -> Tensor:
        seen.extend(history.tolist() for history in histories)
        return torch.zeros(len(histories), 4)

    full_ranks(holdout(), method, mask_history=True)
    assert seen == [[0, 1], [3]]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_target_without_a_finite_score_is_no_hit(score: float) -> None:
    table = torch.zeros(2, 4)
    table[1, holdout().target[1]] = score
    with pytest.raises(TrainingError, match="not finite"):
        full_ranks(holdout(), lambda _: table, mask_history=False)
