"""The loop itself: resumption, pieces, averaging, data parallelism, and what it leaves behind."""

import gc
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from training import checkpoint
from training.__main__ import app
from training.averaging import Average
from training.batches import Batch, Windows, epoch
from training.checkpoint import read_progress
from training.collaborative import Collaborative, CollaborativeTask
from training.config import StageConfig, TrainingConfig, load_config
from training.errors import ConfigError, TrainingError
from training.generator import GeneratorTask
from training.interactions import Split, leave_one_out, read_dataset
from training.loop import Progress, fit
from training.machine import Machine
from training.pipeline import Run

from .ring import ITEMS, ring_settings, write_ring, write_text_embeddings

SEED = 3


class Setting:
    """Data and settings of one small stage I."""

    def __init__(self, folder: Path, *changes: str) -> None:
        self.text = write_text_embeddings(folder / "text.npy")
        self.data = write_ring(folder / "data")
        self.config: TrainingConfig = load_config("quickstart", [*ring_settings(self.text), *changes])
        self.split: Split = leave_one_out(read_dataset(self.data))
        self.windows = Windows.cut(self.split.train, self.config.model.history_length)

    def task(self, kind: type[CollaborativeTask] = CollaborativeTask) -> CollaborativeTask:
        torch.manual_seed(0)
        semantic = torch.from_numpy(np.load(self.text))
        return kind(Collaborative(self.config, ITEMS, semantic), self.config, self.split)

    @property
    def stage(self) -> StageConfig:
        return self.config.stage1


class Killed(CollaborativeTask):
    """Dies at its 12th step: in the middle of the second epoch."""

    steps = 0

    def loss(self, batch: Batch) -> Tensor:
        self.steps += 1
        if self.steps == 12:
            raise KeyboardInterrupt
        return super().loss(batch)


class Diverging(CollaborativeTask):
    """Has no loss any more at its third step."""

    steps = 0

    def loss(self, batch: Batch) -> Tensor:
        self.steps += 1
        return super().loss(batch) * (torch.nan if self.steps == 3 else 1)


def same(a: CollaborativeTask, b: CollaborativeTask) -> bool:
    other = b.model.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.model.state_dict().items())


@pytest.mark.parametrize("averaging", ["none", "ema", "swa"])
@pytest.mark.parametrize("checkpoint_s", [0.0, 300.0], ids=["at-every-step", "at-epochs-only"])
def test_a_loop_killed_at_a_step_resumes_to_the_same_weights(
    tmp_path: Path, checkpoint_s: float, averaging: str
) -> None:
    setting = Setting(tmp_path, "model.dropout=0.3", "stage1.epochs=4", f"stage1.averaging={averaging}")
    machine = Machine(checkpoint_s=checkpoint_s)
    whole, resumed = setting.task(), setting.task()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = fit(whole, setting.windows, setting.stage, SEED, "x", tmp_path / "a", machine)
    with pytest.raises(KeyboardInterrupt):
        fit(setting.task(Killed), setting.windows, setting.stage, SEED, "x", tmp_path / "b", machine)
    stored = tmp_path / "b" / "x.safetensors"
    assert stored.exists() == (checkpoint_s == 0)
    assert checkpoint_s > 0 or read_progress(stored)["step"] == 11
    second = fit(resumed, setting.windows, setting.stage, SEED, "x", tmp_path / "b", machine)
    assert same(whole, resumed)
    assert second.history == first.history
    assert (second.step, second.samples) == (first.step, first.samples)


def test_a_loss_that_diverges_ends_the_training_at_the_next_checkpoint(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    task = setting.task(Diverging)
    with pytest.raises(TrainingError, match="x: the loss of epoch 1 is not finite; try a lower learning rate"):
        fit(task, setting.windows, setting.stage, SEED, "x", tmp_path, Machine(checkpoint_s=0))
    assert isinstance(task, Diverging)
    assert task.steps == 3
    assert read_progress(tmp_path / "x.safetensors")["step"] == 2
    assert all(value.isfinite().all() for value in load_file(tmp_path / "x.safetensors").values())


GENERATOR = [
    "model.dropout=0.3",
    "ranking_weight=1",
    "stage1.epochs=1",
    "stage2.averaging=ema",
    "decoder.epochs=2",
    "decoder.batch_size=16",
    "decoder.averaging=ema",
    "checkpoint_every_s=0",
]


def checkpoint_of(run: Run, stage: str) -> tuple[dict[str, Tensor], Any]:
    """All that a stage has left, and what is not a tensor but for the time it took."""
    path = run.work / f"{stage}.safetensors"
    return load_file(path), read_progress(path) | {"seconds": 0}


def assert_same(one: tuple[dict[str, Tensor], Any], two: tuple[dict[str, Tensor], Any]) -> None:
    assert one[1] == two[1]
    assert one[0].keys() == two[0].keys()
    for name, value in one[0].items():
        assert torch.equal(value, two[0][name]), name


@pytest.mark.parametrize("stage", ["stage2", "decoder"])
def test_a_generator_killed_in_a_stage_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    setting = Setting(tmp_path, *GENERATOR, "stage2.epochs=2")
    whole, resumed = Run(setting.data, tmp_path / "whole", setting.config), tmp_path / "resumed"
    whole.stage2()
    last = whole.progress[stage].step * 3 // 4
    left = iter(range(last + (whole.progress["stage2"].step if stage == "decoder" else 0)))
    loss = GeneratorTask.loss

    def dying(task: GeneratorTask, batch: Batch) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return loss(task, batch)

    with monkeypatch.context() as patch:
        patch.setattr(GeneratorTask, "loss", dying)
        with pytest.raises(KeyboardInterrupt):
            Run(setting.data, resumed, setting.config).stage2()
    run = Run(setting.data, resumed, setting.config)
    assert checkpoint_of(run, stage)[1]["step"] == last
    run.stage2()
    assert_same(checkpoint_of(whole, stage), checkpoint_of(run, stage))


def test_a_process_killed_in_training_is_gone_on_with_by_the_same_command(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    settings = [*ring_settings(setting.text), *GENERATOR, "stage2.epochs=10", "stage2.patience=10"]
    whole, killed = (Run(setting.data, tmp_path / name, load_config("quickstart", settings)) for name in ("a", "b"))
    whole.stage2()
    command = ["train", "--data", str(setting.data), "--preset", "quickstart", "--out", str(killed.out)]
    command += [part for each in settings for part in ("--set", each)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as tests have, so that sums come in the same order
    with subprocess.Popen([sys.executable, "-m", "training", *command], env=one_thread) as process:
        while process.poll() is None and not (killed.work / "stage2.safetensors").exists():
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint_of(killed, "stage2")[1]["step"] < whole.progress["stage2"].step
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for stage in ("stage1", "stage2", "decoder"):
        assert_same(checkpoint_of(whole, stage), checkpoint_of(killed, stage))


class BestAtTwo(CollaborativeTask):
    """Validation finds the second epoch best."""

    evaluations = 0

    def validate(self) -> float:
        self.evaluations += 1
        return float(self.evaluations == 2)


class Unmeasured(CollaborativeTask):
    """Cannot be validated."""

    def validate(self) -> float:
        raise AssertionError


class KilledUnmeasured(Killed, Unmeasured):
    pass


@pytest.mark.parametrize("averaging", ["none", "ema", "swa"])
def test_a_number_of_epochs_follows_the_schedule_to_the_weights_that_validation_chose(
    tmp_path: Path, averaging: str
) -> None:
    averaged = (f"stage1.averaging={averaging}", "stage1.average_from=0.25")
    setting = Setting(tmp_path, "model.dropout=0.3", "stage1.epochs=4", "stage1.evaluate_every=1", *averaged)
    chosen, again = setting.task(BestAtTwo), setting.task(Unmeasured)
    assert fit(chosen, setting.windows, setting.stage, SEED, "chosen", tmp_path).epoch == 4
    machine = Machine(checkpoint_s=0)
    with pytest.raises(KeyboardInterrupt):
        fit(setting.task(KilledUnmeasured), setting.windows, setting.stage, SEED, "x", tmp_path, machine, epochs=2)
    progress = fit(again, setting.windows, setting.stage, SEED, "x", tmp_path, machine, epochs=2)
    assert (progress.epoch, progress.best_epoch) == (2, 2)
    assert same(chosen, again)


def test_no_epoch_leaves_the_weights_of_the_start(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    task = setting.task(Unmeasured)
    fit(task, setting.windows, setting.stage, SEED, "x", tmp_path, from_start=True, epochs=0)
    assert same(setting.task(), task)


def test_a_batch_in_pieces_gives_the_same_loss_and_gradients(tmp_path: Path) -> None:
    task = Setting(tmp_path, "cka_weight=0.5").task()
    batch = next(epoch(task_windows(task), 16, seed=0, number=0))
    gradients = []
    for pieces in (1, 3, 40):  # more pieces than windows: some have none
        task.model.zero_grad()
        loss = torch.stack([task.loss(batch.cut(piece, pieces)) for piece in range(pieces)]).sum()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in task.model.parameters() if p.grad is not None)])
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def task_windows(task: CollaborativeTask) -> Windows:
    return Windows.cut(task.split.train, task.config.model.history_length)


def test_accumulation_changes_no_weight_beyond_rounding(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "stage1.epochs=2")
    plain, pieces = setting.task(), setting.task()
    fit(plain, setting.windows, setting.stage, SEED, "plain", tmp_path)
    fit(pieces, setting.windows, setting.stage.model_copy(update={"accumulate": 4}), SEED, "pieces", tmp_path)
    assert not same(plain, pieces)  # sums in another order
    torch.testing.assert_close(plain.model.item, pieces.model.item, atol=2e-3, rtol=0)


def test_mixed_precision_learns_the_same_within_its_rounding(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "stage1.epochs=3")
    exact, mixed = setting.task(), setting.task()
    first = fit(exact, setting.windows, setting.stage, SEED, "exact", tmp_path)
    second = fit(mixed, setting.windows, setting.stage, SEED, "mixed", tmp_path, Machine(mixed=True))
    assert mixed.model.item.dtype == torch.float32
    assert not same(exact, mixed)
    assert second.history[-1][1] == pytest.approx(first.history[-1][1], rel=0.05)


def test_an_average_is_kept_and_not_the_last_weights(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "stage1.epochs=2")
    plain, averaged = setting.task(), setting.task()
    fit(plain, setting.windows, setting.stage, SEED, "plain", tmp_path)
    stage = setting.stage.model_copy(update={"averaging": "ema", "ema_decay": 0.9})
    fit(averaged, setting.windows, stage, SEED, "ema", tmp_path)
    assert not same(plain, averaged)
    torch.testing.assert_close(plain.model.item, averaged.model.item, atol=0.3, rtol=0)


def test_training_longer_holds_no_more_tensors(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "stage1.patience=99")

    alive: list[int] = []

    class Counted(CollaborativeTask):
        def validate(self) -> float:
            gc.collect()
            alive.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
            return super().validate()

    task = setting.task(Counted)
    fit(task, setting.windows, setting.stage, SEED, "x", tmp_path)
    assert len(alive) > 5
    assert len(set(alive[2:])) == 1


def test_samples_are_counted(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "stage1.epochs=2")
    progress = fit(setting.task(), setting.windows, setting.stage, SEED, "x", tmp_path)
    assert progress.samples == 2 * int((setting.windows.end - setting.windows.start - 1).sum())
    assert progress.samples_per_s == pytest.approx(progress.samples / progress.seconds)


def test_event_files_are_written_where_they_are_wanted(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    setting = Setting(tmp_path, "stage1.epochs=4")
    fit(setting.task(), setting.windows, setting.stage, SEED, "x", tmp_path, replace(Machine(), tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "x")).Reload()
    assert len(events.Scalars("loss")) == 2
    assert events.Scalars("samples_per_s")[0].value > 0


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        Machine.of(TrainingConfig(device=device))


@pytest.mark.timeout(600)  # three processes import torch, and two of them wait for each other at every step
def test_two_processes_reach_the_loss_of_one(tmp_path: Path) -> None:
    # One validation at the end and no dropout, so both runs do exactly the same but for the order of sums.
    changes = ["stage1.epochs=3", "stage1.evaluate_every=3", "stage2.epochs=2", "cka_weight=0.3", "skip_wrong_rows=1"]
    changes += ["decoder.epochs=2", "decoder.evaluate_every=2", "decoder.batch_size=16"]
    setting = Setting(tmp_path, *changes)
    with (setting.data / "interactions.csv").open("a") as events:
        events.write("u0,i0,never\n")
    alone, together = tmp_path / "alone", tmp_path / "together"
    Run(setting.data, alone, setting.config).stage2()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "training", "run", "--data", str(setting.data), "--preset", "quickstart", "--out", str(together)]
    command += [part for change in [*ring_settings(setting.text), *changes] for part in ("--set", change)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1
    for stage in ("stage1", "stage2", "decoder"):
        one, two = (
            read_progress(out.with_name(f"{out.name}.work") / f"{stage}.safetensors") for out in (alone, together)
        )
        assert two["step"] == one["step"]
        assert np.asarray(two["history"])[:, 1] == pytest.approx(np.asarray(one["history"])[:, 1], rel=1e-4)


def test_every_evaluation_says_how_far_training_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(tmp_path, "stage1.epochs=4", "stage1.evaluate_every=2", "stage1.patience=9")
    with caplog.at_level("INFO", logger="training"):
        fit(setting.task(), setting.windows, setting.stage, SEED, "stage1", tmp_path)
    half, end = (line for line in caplog.messages if line.startswith("stage1: epoch"))
    assert half.startswith("stage1: epoch 2 of 4, ")
    assert re.search(r"at most \d+ s more of this stage$", half)
    assert end.startswith("stage1: epoch 4 of 4, ")
    assert end.endswith("at most 0 s more of this stage")
    assert Progress(epoch=2, seconds=100.0).left_s(10) == 400.0


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What safetensors raises for a full disk is none of its own, and the command line would show a traceback."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(OSError, match=r"at\.writing cannot be written: .*No space left"):
        checkpoint.save(
            tmp_path / "at", model, torch.optim.AdamW(model.parameters()), Average(model, StageConfig(epochs=1)), {}, {}
        )
