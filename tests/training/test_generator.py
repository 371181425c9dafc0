"""The generator as stage II trains it, with random embeddings and codes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import random_codes
from training.batches import Windows, epoch
from training.collaborative import Embeddings
from training.config import load_config
from training.generator import GeneratorModel, GeneratorTask
from training.interactions import leave_one_out, read_dataset

from .ring import ITEMS, ring_settings


def task(ring: Path, *changes: str) -> GeneratorTask:
    config = load_config("quickstart", [*ring_settings(ring / "text.npy"), *changes])
    rng, width = np.random.default_rng(0), config.model.width
    tables = [rng.normal(size=(ITEMS, each)).astype(np.float32) for each in (width, width, 2 * width)]
    codes = random_codes(ITEMS, 2, 8, seed=0)
    torch.manual_seed(0)
    model = GeneratorModel(config, Embeddings(*tables), codes)
    with torch.no_grad():
        for part in (model.project.weight, model.token_input):
            part.normal_()
    return GeneratorTask(model, config, leave_one_out(read_dataset(ring / "data")), codes)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("ranking_weight", [0, 1])
@pytest.mark.parametrize("kind", ["temporal", "encoder_decoder"])
def test_a_piece_without_windows_has_no_loss(ring: Path, kind: str, ranking_weight: int, frozen: bool) -> None:
    asked = task(ring, f"model.generator={kind}", f"ranking_weight={ranking_weight}")
    if frozen:
        asked.leave_to_decoder()
    batch = next(epoch(Windows.cut(asked.split.train, 12), 16, seed=0, number=0))
    loss = asked.loss(batch.cut(16, 17))
    loss.backward()
    assert loss.item() == 0
    assert all(not part.grad.any() for part in asked.model.parameters() if part.grad is not None)
