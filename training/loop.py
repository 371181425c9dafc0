"""The training loop of both stages and the baselines: epochs, validation, early stopping, exact resumption."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from . import checkpoint
from .batches import Batch, Windows, batch_count, epoch
from .config import StageConfig
from .errors import TrainingError

_WARM_UP_STEPS = 100


class Task(Protocol):
    """What a loop trains."""

    @property
    def model(self) -> nn.Module:
        """What is trained; left with its best weights."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Scalar to minimise."""
        ...

    def validate(self) -> float:
        """Validation NDCG@10."""
        ...


@dataclass
class Progress:
    """How far a loop has come; everything resumption needs beside the tensors.

    seconds covers training steps alone, validation apart.
    """

    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[tuple[int, float, float]] = field(default_factory=list)  # (epoch, mean loss, validation)


def fit(task: Task, windows: Windows, stage: StageConfig, seed: int, name: str, folder: Path) -> Progress:
    """Trains until the epochs are over or validation stops improving; leaves the best weights in the model.

    Every epoch draws its order and its dropout from (seed, epoch), so a run that was killed and resumed from
    `folder`/`name`.safetensors ends with the same weights as one that was not.
    """
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=stage.learning_rate, weight_decay=stage.weight_decay)
    path = folder / f"{name}.safetensors"
    progress, best = Progress(), _copy(task.model)
    if path.exists():
        best, stored = checkpoint.load(path, task.model, optimizer)
        progress = Progress(**stored)
    steps = batch_count(windows, stage.batch_size)
    with tqdm(total=stage.epochs * steps, initial=progress.epoch * steps, desc=name, unit="step", disable=None) as bar:
        while not _finished(progress, stage):
            loss = _train_epoch(task, windows, stage, seed, progress, optimizer, bar)
            progress.epoch += 1
            if progress.epoch % stage.evaluate_every and progress.epoch < stage.epochs:
                continue
            best = _evaluate(task, progress, loss, best)
            bar.set_postfix(loss=f"{loss:.3f}", ndcg=f"{progress.history[-1][2]:.4f}", best=f"{progress.best:.4f}")
            checkpoint.save(path, task.model, optimizer, best, asdict(progress))
    task.model.load_state_dict(best)
    task.model.eval()
    return progress


def _train_epoch(
    task: Task,
    windows: Windows,
    stage: StageConfig,
    seed: int,
    progress: Progress,
    optimizer: torch.optim.Optimizer,
    bar: "tqdm[None]",
) -> float:
    torch.manual_seed(seed * 1_000_003 + progress.epoch)
    task.model.train()
    steps = batch_count(windows, stage.batch_size)
    started, total, batches = time.perf_counter(), 0.0, 0
    for batch in epoch(windows, stage.batch_size, seed, progress.epoch):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * _schedule(progress.step, stage.epochs * steps)
        optimizer.zero_grad(set_to_none=True)
        loss = task.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
        progress.step += 1
        total, batches = total + loss.item(), batches + 1
        bar.update()
    if not math.isfinite(total):
        raise TrainingError(f"the loss of epoch {progress.epoch + 1} is not finite; try a lower learning rate")
    progress.seconds += time.perf_counter() - started
    return total / batches


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, then half a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / min(_WARM_UP_STEPS, max(1, steps // 10)))
    return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def _evaluate(task: Task, progress: Progress, loss: float, best: dict[str, Tensor]) -> dict[str, Tensor]:
    task.model.eval()
    with torch.no_grad():
        value = task.validate()
    progress.history.append((progress.epoch, loss, value))
    if value > progress.best:
        progress.best, progress.best_epoch = value, progress.epoch
        return _copy(task.model)
    return best


def _finished(progress: Progress, stage: StageConfig) -> bool:
    waited = sum(1 for number, _, _ in progress.history if number > progress.best_epoch)
    return progress.epoch >= stage.epochs or waited >= stage.patience


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
