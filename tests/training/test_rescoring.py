"""Which weight of rescoring counts while stage II is trained, and which one an artifact gets."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from models.graph import Inputs
from training.config import load_config
from training.generator import GeneratorTask, eager_search
from training.pipeline import Run

from .ring import ring_settings


def task_of(ring: Path, name: str, *changes: str) -> GeneratorTask:
    settings = [*ring_settings(ring / "text.npy"), "stage1.epochs=1", "stage2.epochs=1", *changes]
    return Run(ring / "data", ring / name, load_config("quickstart", settings), ring / "steps").stage2()[1]


@pytest.fixture(scope="module")
def task(ring: Path) -> GeneratorTask:
    return task_of(ring, "with-item-head")


def ndcg_by_weight(monkeypatch: pytest.MonkeyPatch, task: GeneratorTask, values: dict[float, float]) -> list[float]:
    """Makes searches as good as `values` say, by their weight; the weights that are asked about, as they come."""
    asked = []

    def ndcg(weight: float, tables: Inputs) -> float:
        assert "prefix_output" in tables
        asked.append(weight)
        return values.get(weight, 0.0)

    monkeypatch.setattr(task, "ndcg", ndcg)
    return asked


def test_validation_takes_the_better_of_two_weights_far_apart(
    task: GeneratorTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ndcg_by_weight(monkeypatch, task, {10.0: 0.2, 100.0: 0.3})
    assert task.validate() == 0.3
    assert asked == [10.0, 100.0]
    ndcg_by_weight(monkeypatch, task, {10.0: 0.2, 100.0: 0.1})
    assert task.validate() == 0.2


def test_without_an_item_head_codes_alone_are_validated(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(ring, "codes-alone", "item_weight=0")
    asked = ndcg_by_weight(monkeypatch, task, {0.0: 0.4})
    assert task.validate() == 0.4
    assert asked == [0.0]


def test_an_artifact_gets_the_best_weight_and_of_equals_the_smallest(
    task: GeneratorTask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables = task.search_tables()
    ndcg_by_weight(monkeypatch, task, {1.0: 0.1, 100.0: 0.3})
    with caplog.at_level(logging.INFO, logger="training"):
        assert task.best_weight(tables) == 100.0
    assert "by weight: 0: 0.0000, 1: 0.1000, 3: 0.0000, 10: 0.0000, 30: 0.0000, 100: 0.3000" in caplog.text
    ndcg_by_weight(monkeypatch, task, {3.0: 0.3, 30.0: 0.3})
    assert task.best_weight(tables) == 3.0


def test_a_heavy_weight_orders_by_the_item_head(task: GeneratorTask) -> None:
    found, valid = task.search_tables(), task.split.valid
    states = task.model.user_states([valid.history(row) for row in range(len(valid))])
    scores = (states @ torch.from_numpy(np.array(found["item_output"])).T).numpy()
    for row, target in enumerate(valid.target):
        scores[row, [item for item in valid.history(row) if item != target]] = -np.inf
    best = scores.max(axis=1)
    items = eager_search(task.model, task.trie, valid, task.config, found, 1e4).items[:, 0]
    assert np.mean(scores[np.arange(len(items)), items] >= best - 1e-4) > 0.95
