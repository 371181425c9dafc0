"""Stage I with texts in item vectors: what one item's events teach is known of items with a text like it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.batches import Windows, epoch, pad_histories
from training.collaborative import Collaborative, CollaborativeTask
from training.config import load_config
from training.pipeline import Run
from training.ranking import full_ranks

from .ring import ITEMS, ring_settings, write_ring, write_text_embeddings

UNTOUCHED = 17


@pytest.fixture(scope="module")
def ring_with_a_gap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ring, whose users skip one item."""
    folder = tmp_path_factory.mktemp("gap")
    path = write_ring(folder / "data") / "interactions.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(row for row in rows if f",i{UNTOUCHED}," not in row) + "\n")
    write_text_embeddings(folder / "text.npy")
    return folder


def stage1(folder: Path, *settings: str) -> Run:
    config = load_config("quickstart", [*ring_settings(folder / "text.npy"), *settings])
    values = [setting.partition("=")[2] for setting in settings]
    return Run(folder / "data", folder / "-".join(["out", *values]), config)


@pytest.mark.parametrize("settings", [["item_text=false"], ["item_text=true"], ["item_text=true", "integrated=gate"]])
def test_vectors_of_some_items_are_rows_of_those_of_all(settings: list[str]) -> None:
    model = Collaborative(load_config("quickstart", settings), 12, torch.randn(12, 5))
    some = torch.tensor([[3, 3], [0, 11]])
    for vectors in (model.items, model.collaborative):
        assert torch.allclose(vectors(some), vectors()[some], atol=1e-6)


@pytest.mark.parametrize("recommender", ["temporal", "din"])
def test_behind_a_gate_both_embeddings_begin_alike_large(recommender: str) -> None:
    settings = ["integrated=gate", "item_text=false", f"recommender={recommender}"]
    model = Collaborative(load_config("quickstart", settings), 200, torch.randn(200, 5))
    assert model.adaptation(model.semantic).std().item() == pytest.approx(model.collaborative().std().item(), rel=0.2)


def test_an_item_that_nobody_touched_follows_the_one_before_it_by_its_text(ring_with_a_gap: Path) -> None:
    places = {}
    for setting in ("item_text=true", "item_text=false"):
        run = stage1(ring_with_a_gap, setting)
        index = {name: place for place, name in enumerate(run.split.interactions.item_ids)}
        history = np.array([index[f"i{UNTOUCHED - back}"] for back in (3, 2, 1)], dtype=np.int32)
        scores = run.stage1()[1].rank_scores()([history])[0]
        places[setting] = int((scores > scores[index[f"i{UNTOUCHED}"]]).sum())
    assert places["item_text=true"] <= 3
    assert places["item_text=false"] > ITEMS / 4


def test_a_ranking_makes_item_vectors_once_and_each_validation_anew(ring_with_a_gap: Path) -> None:
    run = stage1(ring_with_a_gap, "item_text=true")
    model = Collaborative(run.config, run.item_count, torch.from_numpy(run.prepare())).eval()
    task, valid, made = CollaborativeTask(model, run.config, run.split), run.split.valid, 0
    rows = model.items

    def counting(items: torch.Tensor | None = None) -> torch.Tensor:
        nonlocal made
        made += 1
        return rows(items)

    def anew(histories: list[np.ndarray[Any, np.dtype[np.int32]]]) -> torch.Tensor:
        return model.scores(pad_histories([history[-12:] for history in histories]), rows())

    wanted = full_ranks(valid, anew, mask_history=True)
    model.items = counting  # type: ignore[method-assign]
    assert len(valid) > 64, "users of more than one chunk"
    assert np.array_equal(full_ranks(valid, task.rank_scores(), mask_history=True), wanted)
    assert made == 1
    before = task.validate()
    with torch.no_grad():
        model.item.normal_()
    assert task.validate() != before
    assert made == 3


@pytest.mark.parametrize("recommender", ["temporal", "din"])
def test_with_sampled_negatives_a_step_makes_the_vectors_it_needs_once(ring_with_a_gap: Path, recommender: str) -> None:
    settings = ["item_text=true", "softmax_items=2", "sampled_items=3", f"recommender={recommender}"]
    run = stage1(ring_with_a_gap, *settings)
    model = Collaborative(run.config, run.item_count, torch.from_numpy(run.prepare()))
    asked: list[torch.Tensor | None] = []
    rows = model.items

    def counting(items: torch.Tensor | None = None) -> torch.Tensor:
        asked.append(items)
        return rows(items)

    model.items = counting  # type: ignore[method-assign]
    batch = next(epoch(Windows.cut(run.split.train, 12), 16, seed=0, number=0))
    CollaborativeTask(model, run.config, run.split).loss(batch).backward()
    assert len(asked) == 1
    assert asked[0] is not None
    assert len(asked[0]) == len(asked[0].unique()) <= ITEMS
    assert model.text is not None
    assert model.text.weight.grad is not None
    assert model.text.weight.grad.abs().sum() > 0
