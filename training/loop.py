"""The training loop of both stages and the baselines: epochs, validation, early stopping, exact resumption."""

import logging
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from . import checkpoint
from .averaging import Average
from .batches import Batch, Windows, batch_count, epoch
from .config import StageConfig
from .errors import TrainingError
from .machine import Machine
from .scalars import Scalars, open_scalars
from .whole_files import intact

_LONG_S = 100.0  # told in minutes
_WARM_UP_STEPS = 100
_BETAS = (0.9, 0.98)  # of AdamW, as transformers are trained
_LOG = logging.getLogger(__name__)


class Task(Protocol):
    """What a loop trains."""

    @property
    def model(self) -> nn.Module:
        """What is trained; left with its best weights, on the CPU."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Scalar to minimise; the losses of a batch's pieces add up to that of the whole."""
        ...

    def samples(self, batch: Batch) -> int:
        """Predictions that the whole batch teaches."""
        ...

    def validate(self) -> float:
        """Validation NDCG@10."""
        ...


@dataclass
class Progress:
    """How far a loop has come; everything resumption needs beside the tensors.

    batches   of the running epoch that are done, and loss_sum over them
    seconds   of training steps alone, validation apart; samples are the predictions trained in them
    history   (epoch, mean loss, validation) of every evaluation; nan where nothing is validated
    """

    epoch: int = 0
    step: int = 0
    batches: int = 0
    loss_sum: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    samples: int = 0
    history: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def samples_per_s(self) -> float:
        return self.samples / self.seconds if self.seconds else 0.0

    def finished(self, stage: StageConfig) -> bool:
        """Whether the epochs are over or validation has stopped improving."""
        waited = sum(1 for number, _, _ in self.history if number > self.best_epoch)
        return self.epoch >= stage.epochs or waited >= stage.patience

    def left_s(self, epochs: int) -> float:
        """Seconds of training until `epochs` are over, if every epoch takes as long as those before."""
        return self.seconds / max(1, self.epoch) * (epochs - self.epoch)


class _TaskLoss(nn.Module):
    """A task's loss as a module's forward, which is what data parallelism wraps."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self.task = task

    def forward(self, batch: Batch) -> Tensor:
        return self.task.loss(batch)


def fit(
    task: Task,
    windows: Windows,
    stage: StageConfig,
    seed: int,
    name: str,
    folder: Path,
    machine: Machine | None = None,
    *,
    from_start: bool = False,
    epochs: int | None = None,
) -> Progress:
    """Trains until the epochs are over or validation stops improving; leaves the best weights in the model.

    With `from_start` those it begins with may be the best; else they are not looked at. With `epochs` the stage's
    schedule is followed for exactly so many of its epochs, nothing is validated, and the last weights are left.

    Raises TrainingError where the loss, or what is left, is not finite.

    Every step draws its randomness from (seed, step, process), so a run that was killed and resumed from
    `folder`/`name`.safetensors ends with the same weights as one that was not: on a CPU to the bit.
    """
    loop = _Loop(task, windows, stage, seed, name, folder, machine or Machine())
    if epochs is not None:
        loop.validates, loop.epochs = False, epochs
    return loop.run(from_start=from_start)


class _Loop:
    def __init__(
        self, task: Task, windows: Windows, stage: StageConfig, seed: int, name: str, folder: Path, machine: Machine
    ) -> None:
        self.task, self.windows, self.stage, self.seed, self.machine = task, windows, stage, seed, machine
        self.validates, self.epochs = True, stage.epochs
        self.name, self.folder, self.path = name, folder, folder / f"{name}.safetensors"
        self.model = task.model.to(machine.device)
        self.average = Average(self.model, stage)
        self.loss = machine.shared(_TaskLoss(task))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), stage.learning_rate, _BETAS, weight_decay=stage.weight_decay, fused=True
        )
        self.progress, self.best = Progress(), _copy(self.model)
        if self.path.exists():
            with intact(self.path):
                self.best, stored = checkpoint.load(self.path, self.model, self.optimizer, self.average)
            self.progress = Progress(**stored)
        self.steps = batch_count(windows, stage.batch_size)
        self.saved_at = time.monotonic()

    def run(self, *, from_start: bool) -> Progress:
        progress, stage = self.progress, self.stage
        if from_start and self.validates and not progress.step:
            progress.best = self._validated()
        done = progress.epoch * self.steps + progress.batches
        shown = None if self.machine.leads else True  # None: on a terminal only
        scalars = open_scalars(self.machine, self.folder / "tensorboard" / self.name, progress.step)
        with (
            tqdm(total=self.epochs * self.steps, initial=done, desc=self.name, unit="step", disable=shown) as bar,
            scalars,
        ):
            while not self._finished():
                loss = self._train_epoch(bar)
                progress.epoch, progress.batches, progress.loss_sum = progress.epoch + 1, 0, 0.0
                if progress.epoch % stage.evaluate_every == 0 or progress.epoch >= self.epochs:
                    self._evaluate(loss)
                    self._tell(bar, scalars)
                    self._save()
        if not all(bool(value.isfinite().all()) for value in self.best.values()):  # a last step, which no loss shows
            raise TrainingError(f"{self.name}: the weights are not finite; try a lower learning rate")
        self.model.load_state_dict(self.best)
        self.model.cpu().eval()
        self.machine.wait()
        return progress

    def _train_epoch(self, bar: "tqdm[None]") -> float:
        """Mean loss of the epoch, of which a resumed run has done a part already."""
        progress, device = self.progress, self.machine.device
        self.model.train()
        started, total = time.perf_counter(), torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
        for batch in epoch(self.windows, self.stage.batch_size, self.seed, progress.epoch, skip=progress.batches):
            total += self._step(batch)
            progress.step, progress.batches = progress.step + 1, progress.batches + 1
            progress.samples += self.task.samples(batch)
            bar.update()
            if time.monotonic() - self.saved_at > self.machine.checkpoint_s:
                progress.loss_sum = self._finite(total)
                progress.seconds, started = progress.seconds + time.perf_counter() - started, time.perf_counter()
                self._save()
        loss = self._finite(total)
        progress.seconds += time.perf_counter() - started
        return loss / self.steps

    def _finite(self, total: Tensor) -> float:
        """The running epoch's loss; raises TrainingError where training has diverged."""
        loss = float(total)
        if not math.isfinite(loss):
            epoch = self.progress.epoch + 1
            raise TrainingError(f"{self.name}: the loss of epoch {epoch} is not finite; try a lower learning rate")
        return loss

    def _step(self, batch: Batch) -> Tensor:
        """One update of the weights from all pieces of a batch; the loss of the whole batch, float64."""
        machine, stage = self.machine, self.stage
        torch.manual_seed(
            int(np.random.SeedSequence((self.seed, self.progress.step, machine.rank)).generate_state(1)[0])
        )
        for group in self.optimizer.param_groups:
            group["lr"] = stage.learning_rate * _schedule(self.progress.step, stage.epochs * self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=machine.device)
        for number in range(stage.accumulate):
            piece = batch.cut(machine.rank * stage.accumulate + number, machine.size * stage.accumulate)
            last = number == stage.accumulate - 1
            waiting = isinstance(self.loss, DistributedDataParallel) and not last
            with self.loss.no_sync() if waiting else nullcontext():  # type: ignore[operator]
                with machine.autocast():
                    loss: Tensor = self.loss(piece.to(machine.device))
                (loss * machine.size).backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.progress.epoch)
        return machine.total(total)

    def _evaluate(self, loss: float) -> None:
        progress = self.progress
        with self.average.applied():
            value = self._validated() if self.validates else math.nan
            progress.history.append((progress.epoch, loss, value))
            if value > progress.best or not self.validates:
                progress.best, progress.best_epoch = value, progress.epoch
                self.best = _copy(self.model)

    def _validated(self) -> float:
        with torch.no_grad():
            self.model.eval()
            return self.machine.leaders(self.task.validate() if self.machine.leads else 0.0)

    def _tell(self, bar: "tqdm[None]", scalars: Scalars) -> None:
        progress = self.progress
        number, loss, value = progress.history[-1]
        validation = {"ndcg_at_10": value} if self.validates else {}
        scalars.tell(progress.step, loss=loss, **validation, samples_per_s=progress.samples_per_s)
        bar.set_postfix(loss=f"{loss:.3f}", ndcg=f"{value:.4f}", best=f"{progress.best:.4f}",
                        samples_s=f"{progress.samples_per_s:.0f}")  # fmt: skip
        if self.machine.leads:
            left_s = progress.left_s(self.epochs)
            _LOG.info(
                "%s: epoch %d of %d, loss %.4f%s, %.0f samples/s, at most %s more of this stage",
                self.name, number, self.epochs, loss,
                f", validation NDCG@10 {value:.4f}" if self.validates else "", progress.samples_per_s,
                f"{left_s / 60:.0f} min" if left_s >= _LONG_S else f"{left_s:.0f} s",
            )  # fmt: skip

    def _save(self) -> None:
        if self.machine.leads:
            checkpoint.save(self.path, self.model, self.optimizer, self.average, self.best, asdict(self.progress))
        self.saved_at = time.monotonic()

    def _finished(self) -> bool:
        return self.progress.finished(self.stage) if self.validates else self.progress.epoch >= self.epochs


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / min(_WARM_UP_STEPS, max(1, steps // 10)))
    return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
