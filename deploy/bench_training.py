"""Training steps of stage I, in float32 and in bfloat16, on one thread and on two: samples/s, CPU time of a step.

    python -m deploy.bench_training DIR
    python -m deploy.bench_training --items 1000000

Interleaved, so that what else the machine does falls on all of them alike; the text is replaced by random embeddings,
which changes nothing in the work of a step. With `--items` events are made up, too: every item as likely as the next.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # both as `python -m training` does; read when torch is first imported
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
import typer
from torch import nn

from training.batches import Batch, Windows, epoch
from training.collaborative import Collaborative, CollaborativeTask
from training.config import load_config
from training.interactions import Interactions, Split, leave_one_out, read_dataset
from training.machine import Machine

from .commands import run

_SEMANTIC_WIDTH = 384
_USERS = 20_000  # made up, with events each:
_EVENTS = 10


@dataclass(frozen=True)
class Speed:
    samples_per_s: float
    cpu_ms: float  # of a step, all threads


def speed(task: CollaborativeTask, batches: list[Batch], machine: Machine, threads: int) -> Speed:
    """Of forward, backward and update over the batches."""
    torch.set_num_threads(threads)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-4, fused=True)
    started, busy = time.perf_counter(), time.process_time()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        with machine.autocast():
            loss = task.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        optimizer.step()
    samples = sum(task.samples(batch) for batch in batches)
    cpu_ms = 1000 * (time.process_time() - busy) / len(batches)
    return Speed(samples / (time.perf_counter() - started), cpu_ms)


def made_up(items: int) -> Split:
    """Users whose events are drawn evenly."""
    events = np.random.default_rng(0).integers(0, items, _USERS * _EVENTS, dtype=np.int32)
    users, names = [f"u{user}" for user in range(_USERS)], [str(item) for item in range(items)]
    offsets = np.arange(0, len(events) + 1, _EVENTS, dtype=np.int64)
    return leave_one_out(Interactions(users, names, [], offsets, events, np.zeros(len(events), dtype=np.int64)))


def main(
    data: Annotated[Path | None, typer.Argument(help="Dataset folder.")] = None,
    items: Annotated[int | None, typer.Option(min=2, help="Made-up events of so many items instead.")] = None,
    preset: str = "small",
    steps: int = 8,
    rounds: int = 3,
) -> None:
    """Prints one line a round and number of threads."""
    if (data is None) == (items is None):
        raise typer.BadParameter("give a dataset folder, or --items for made-up events")
    config = load_config(preset, [])
    split = leave_one_out(read_dataset(data)) if data is not None else made_up(items or 0)
    item_count = len(split.interactions.item_ids)
    torch.manual_seed(0)
    model = Collaborative(config, item_count, torch.randn(item_count, _SEMANTIC_WIDTH))
    task = CollaborativeTask(model, config, split)
    task.model.train()
    windows = Windows.cut(split.train, config.model.history_length)
    batches = [batch for _, batch in zip(range(steps), epoch(windows, config.stage1.batch_size, 0, 0), strict=False)]
    speed(task, batches, Machine(), 2)  # warm up
    for _ in range(rounds):
        for threads in (1, 2):
            full, half = (speed(task, batches, Machine(mixed=mixed), threads) for mixed in (False, True))
            typer.echo(
                f"{threads} threads: float32 {full.samples_per_s:.0f}, bfloat16 {half.samples_per_s:.0f} samples/s, "
                f"{half.samples_per_s / full.samples_per_s:.2f} times; "
                f"{full.cpu_ms:.0f}, {half.cpu_ms:.0f} ms of CPU a step"
            )


if __name__ == "__main__":
    run(main)
