"""Training steps of stage I on a dataset, in float32 and in bfloat16, on one thread and on two: samples/s.

    python -m deploy.bench_training DIR

Interleaved, so that what else the machine does falls on all of them alike; the text is replaced by random embeddings,
which changes nothing in the work of a step.
"""

import os
import time
from pathlib import Path
from typing import Annotated

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # as `python -m training` does; read when torch is first imported

import torch
import typer

from training.batches import Batch, Windows, epoch
from training.collaborative import Collaborative, CollaborativeTask
from training.config import load_config
from training.interactions import leave_one_out, read_dataset
from training.machine import Machine

from .commands import run

_SEMANTIC_WIDTH = 384


def samples_per_s(task: CollaborativeTask, batches: list[Batch], machine: Machine, threads: int) -> float:
    """Forward, backward and update over the batches."""
    torch.set_num_threads(threads)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-4, fused=True)
    started = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        with machine.autocast():
            loss = task.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return sum(task.samples(batch) for batch in batches) / (time.perf_counter() - started)


def main(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")],
    preset: str = "small",
    steps: int = 8,
    rounds: int = 3,
) -> None:
    """Prints one line a round."""
    config = load_config(preset, [])
    split = leave_one_out(read_dataset(data))
    items = len(split.interactions.item_ids)
    torch.manual_seed(0)
    task = CollaborativeTask(Collaborative(config, items, torch.randn(items, _SEMANTIC_WIDTH)), config, split)
    task.model.train()
    windows = Windows.cut(split.train, config.model.history_length)
    batches = [batch for _, batch in zip(range(steps), epoch(windows, config.stage1.batch_size, 0, 0), strict=False)]
    samples_per_s(task, batches, Machine(), 2)  # warm up
    for _ in range(rounds):
        for threads in (1, 2):
            speeds = [samples_per_s(task, batches, Machine(mixed=mixed), threads) for mixed in (False, True)]
            typer.echo(
                f"{threads} threads: float32 {speeds[0]:.0f}, bfloat16 {speeds[1]:.0f} samples/s, "
                f"{speeds[1] / speeds[0]:.2f} times"
            )


if __name__ == "__main__":
    run(main)
