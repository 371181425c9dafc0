"""The generator as stage II trains it, with random embeddings and codes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from tests.tiny import random_codes
from training.batches import Windows, epoch, pad_histories
from training.collaborative import Embeddings
from training.config import load_config
from training.generator import GeneratorModel, GeneratorTask
from training.interactions import leave_one_out, read_dataset
from training.losses import Rows

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


class Lookups(TorchFunctionMode):
    """Counts those in one table."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table, self.count = table, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        table = args[1] if function is F.embedding else args[0] if function is torch.Tensor.__getitem__ else None
        self.count += table is self.table
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["temporal", "encoder_decoder"])
def test_with_sampled_negatives_a_step_looks_items_up_once(ring: Path, kind: str) -> None:
    asked = task(ring, f"model.generator={kind}", "softmax_items=2", "sampled_items=3")
    batch = next(epoch(Windows.cut(asked.split.train, 12), 16, seed=0, number=0))
    with Lookups(asked.model.item) as lookups:
        asked.loss(batch).backward()
    assert lookups.count == 1
    assert asked.model.item.grad is not None
    assert asked.model.item.grad.any()


@pytest.mark.parametrize("kind", ["temporal", "encoder_decoder"])
def test_user_states_are_those_that_a_table_of_all_items_gives(ring: Path, kind: str) -> None:
    model = task(ring, f"model.generator={kind}").model.eval()
    histories = [np.array(one, dtype=np.int32) for one in ([7], [], [3, 39, 3, 12], list(range(20)))]
    with torch.no_grad():
        tables = {"item_input": model.item_input(torch.arange(ITEMS)), "item_code": model.codes}
        wanted = model.generator.encode(pad_histories([one[-12:] for one in histories]), tables).user_state
    torch.testing.assert_close(model.user_states(histories), wanted)


def test_user_states_look_at_no_item_but_those_of_the_histories(ring: Path) -> None:
    model, asked = task(ring).model.eval(), []
    rows = model.item_input

    def counting(items: torch.Tensor, own: Rows | None = None) -> torch.Tensor:
        asked.append(items.tolist())
        return rows(items, own)

    model.item_input = counting  # type: ignore[method-assign]
    model.user_states([np.array([3, 19, 3], dtype=np.int32), np.array([19, 5], dtype=np.int32)])
    assert asked == [[0, 3, 5, 19]]  # the first one stands where a history is padded
