"""DIN's scores against the formula as published, which makes one input of every event and candidate."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training import collaborative
from training.collaborative import Collaborative, TargetAttention
from training.config import load_config

WIDTH = 8
ITEMS = 30


def as_published(din: TargetAttention, history: Tensor, real: Tensor, candidates: Tensor) -> Tensor:
    past = history[:, None].expand(-1, candidates.shape[1], -1, -1)
    wanted = candidates[:, :, None].expand_as(past)
    weight = din.relevance(torch.cat([past, wanted, past - wanted, past * wanted], dim=-1))[..., 0]
    pooled = ((weight * real[:, None])[..., None] * past).sum(dim=2)
    scores: Tensor = din.score(torch.cat([pooled, candidates, pooled * candidates], dim=-1))[..., 0]
    return scores


def test_scores_and_gradients_are_those_of_the_published_formula() -> None:
    torch.manual_seed(0)
    din = TargetAttention(WIDTH).double()
    history = torch.randn(3, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    candidates = torch.randn(3, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    real = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    inputs = (history, candidates, *din.parameters())
    found, wanted = din(history, real, candidates), as_published(din, history, real, candidates)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn(3, 7, dtype=torch.float64)
    gradients = [torch.autograd.grad((scores * weights).sum(), inputs) for scores in (found, wanted)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_all_items_are_scored_for_histories_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collaborative, "_DIN_ITEMS", 8)  # in pieces, the last of them smaller
    config = load_config("quickstart", ["recommender=din", f"model.width={WIDTH}"])
    torch.manual_seed(0)
    model = Collaborative(config, ITEMS, torch.randn(ITEMS, 4))
    history = torch.from_numpy(np.array([[-1, -1, 3, 4], [9, 8, 7, 6], [-1, -1, -1, -1]]))
    with torch.no_grad():
        table = model.items()
        past = table[history.clamp(min=0)]
        assert model.din is not None
        wanted = as_published(model.din, past, history >= 0, table.expand(3, -1, -1))
        torch.testing.assert_close(model.scores(history, model.items()), wanted)
