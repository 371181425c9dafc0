import numpy as np
import torch

from training.interactions import Holdout
from training.item_gain import GAINS, Events, Trial, choose_gain, spread, try_gains
from training.ridge import fit_ridge


def test_ridge_finds_a_linear_map_and_its_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 3, generator=generator) + 4
    truth = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    layer = fit_ridge(features, features @ truth.T + 7, 1e-6)
    torch.testing.assert_close(layer.weight, truth, atol=1e-3, rtol=0)
    torch.testing.assert_close(layer.bias, torch.full((2,), 7.0), atol=1e-2, rtol=0)


def test_a_strong_ridge_predicts_the_mean() -> None:
    features, targets = torch.randn(100, 3), torch.randn(100, 2)
    layer = fit_ridge(features, targets, 1e9)
    torch.testing.assert_close(layer(features[:1])[0], targets.mean(dim=0), atol=1e-4, rtol=0)


def test_the_gain_is_the_largest_that_costs_known_items_little() -> None:
    trials = [Trial(1.0, 0.0, 0.200), Trial(1.5, 0.1, 0.195), Trial(2.0, 0.2, 0.190), Trial(2.5, 0.3, 0.170)]
    assert choose_gain(trials) == 2.0
    assert choose_gain([Trial(1.0, 0.1, 0.0), Trial(3.0, 0.5, 0.0)]) == 1.0, (
        "no known item is found, so none can be lost"
    )


def test_vectors_move_away_from_the_mean() -> None:
    moved = spread(torch.tensor([[2.0, 1.0]]), torch.tensor([1.0, 1.0]), 3.0)
    assert moved.tolist() == [[4.0, 1.0]]


def events(items: int, users: int, dimensions: int) -> tuple[torch.Tensor, torch.Tensor, Events]:
    """Items whose vectors are half predictable from their features, users who want what scores high with them."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(items, dimensions, generator=generator)
    vectors = 0.5 * features + torch.randn(items, dimensions, generator=generator)
    queries = 0.6 * torch.randn(users, dimensions, generator=generator)
    targets = torch.multinomial(torch.softmax(queries @ vectors.T, dim=1), 1, generator=generator)[:, 0]
    seen = torch.zeros(users, items, dtype=torch.bool)
    return features, vectors, Events(torch.arange(items), queries, targets, seen)


def test_a_larger_gain_finds_more_new_items_and_fewer_known_ones() -> None:
    features, vectors, asked = events(2000, 1500, 16)
    trials = try_gains(features, vectors, torch.ones(2000, dtype=torch.bool), asked, 1e-2)
    assert [trial.gain for trial in trials] == list(GAINS)
    assert trials[-1].new > trials[0].new + 0.05
    assert trials[-1].known < trials[0].known


def test_a_single_learned_item_is_predicted_from_where_its_fold_is_not_new() -> None:
    features, vectors, asked = events(40, 50, 4)
    for item in range(40):
        warm = torch.arange(40) == item
        assert len(try_gains(features, vectors, warm, asked, 1e-2)) == len(GAINS)
    trials = try_gains(features, vectors, torch.zeros(40, dtype=torch.bool), asked, 1e-2)
    assert trials == []
    assert choose_gain(trials) == 1.0


def test_events_leave_out_the_history_but_not_a_target_taken_again() -> None:
    taken = np.array([0, 1, 2, 1, 3], dtype=np.int32)
    holdout = Holdout(np.array([0, 1]), np.array([1, 3], dtype=np.int32), taken, np.array([0, 3]), np.array([3, 4]))
    asked = Events.of(holdout, 5, lambda histories: torch.zeros(len(histories), 2))
    assert asked.items.tolist() == [0, 1, 2, 3, 4]
    assert asked.targets.tolist() == [1, 3]
    assert asked.seen.tolist() == [[True, False, True, False, False], [False, True, False, False, False]]
