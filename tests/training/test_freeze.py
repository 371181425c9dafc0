"""Stage II with stage I frozen: the decoder learns, the item head stays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.batches import Batch, Windows, epoch
from training.config import load_config
from training.errors import ConfigError
from training.pipeline import Run

from .ring import ITEMS, ring_settings, write_ring


def run_of(ring: Path, name: str, *changes: str) -> Run:
    """Runs of this module share the steps that they have in common."""
    config = load_config("quickstart", [*ring_settings(ring / "text.npy"), "stage2.epochs=1", *changes])
    return Run(ring / "data", ring / name, config, ring / "steps")


def test_a_frozen_stage1_keeps_its_item_head_while_codes_are_learned(ring: Path) -> None:
    run = run_of(ring, "frozen", "freeze_stage1=true")
    (stage1, _), (model, _) = run.stage1(), run.stage2()
    assert stage1.temporal is not None
    for name, value in model.generator.temporal.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, stage1.temporal.state_dict()[name]), name
    assert torch.equal(model.item, torch.from_numpy(run.embeddings().collaborative))
    assert not model.token_input.any()
    assert not model.project.weight.any()
    assert model.generator.project.weight.abs().sum() > 0  # zero at the start, so what is there was learned


def test_at_the_end_of_stage2_the_decoder_learns_alone(ring: Path) -> None:
    shorter, longer = run_of(ring, "shorter"), run_of(ring, "longer", "decoder.epochs=4")
    before, model = shorter.stage2()[0].state_dict(), longer.stage2()[0]
    after = model.state_dict()
    assert longer.progress["decoder"].step > 0
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    decoder = ("generator.decoder.", "generator.token_output", "generator.project", "distil_")
    assert changed == {name for name in before if name.startswith(decoder)}
    model.train()
    assert model.generator.decoder.training
    assert not model.generator.temporal.training  # type: ignore[union-attr]
    assert longer.progress["decoder"].best == longer.stage2()[1].ndcg(0.0, longer.stage2()[1].search_tables())


def test_a_decoder_that_gets_worse_alone_stays_as_it_was(ring: Path) -> None:
    shorter = run_of(ring, "without")
    longer = run_of(ring, "ruinous", "decoder.epochs=1", "decoder.learning_rate=10")
    before, after = (run.stage2()[0].state_dict() for run in (shorter, longer))
    progress = longer.progress["decoder"]
    assert progress.best_epoch == 0
    assert progress.history[0][2] < progress.best
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_decoder_learns_what_the_text_says_of_items_without_a_training_event(ring: Path, tmp_path: Path) -> None:
    data, unseen = write_ring(tmp_path / "data"), 17
    with (data / "interactions.csv").open() as stream:
        kept = [line for line in stream if f",i{unseen}," not in line]
    (data / "interactions.csv").write_text("".join(kept))
    settings = [*ring_settings(ring / "text.npy"), "ranking_weight=1", "decoder.epochs=1"]
    run = Run(data, tmp_path / "run", load_config("quickstart", settings))
    model, task = run.stage2()
    of_text = run.item_encoder().network.encode(run.raw_semantic()).item_output
    cold = run.split.train.trained(ITEMS) == 0
    assert np.flatnonzero(cold).tolist() == [unseen]
    np.testing.assert_allclose(task.finished["item_output"][cold], of_text[cold], atol=1e-6)
    np.testing.assert_array_equal(task.finished["item_output"][~cold], model.item.detach().numpy()[~cold])
    batch = next(epoch(Windows.cut(run.split.train, run.config.model.history_length), 16, 0, 0))
    torch.manual_seed(0)
    loss = task.loss(batch).item()
    task.finish_items(task.finished | {"item_output": task.finished["item_output"] + np.float32(3) * cold[:, None]})
    torch.manual_seed(0)
    assert task.loss(batch).item() != loss


def test_alone_the_decoder_learns_along_codes_that_the_item_head_draws(ring: Path) -> None:
    run = run_of(ring, "drawn", "ranking_weight=1")
    model, task = run.stage2()
    batch = next(epoch(Windows.cut(run.split.train, run.config.model.history_length), 16, 0, 0))
    other = replace(batch, target=torch.where(batch.target >= 0, (batch.target + 5) % ITEMS, -1))

    def loss(one: Batch, seed: int) -> float:
        torch.manual_seed(seed)
        return task.loss(one).item()

    model.eval()
    assert loss(batch, 1) != loss(other, 1)
    task.leave_to_decoder()
    assert loss(batch, 1) == loss(other, 1) != loss(batch, 2)


def test_what_cannot_be_frozen_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs model\.generator=temporal"):
        load_config("quickstart", ["freeze_stage1=true", "model.generator=encoder_decoder"])
    with pytest.raises(ConfigError, match="start_from_stage1=true"):
        load_config("quickstart", ["freeze_stage1=true", "start_from_stage1=false"])
