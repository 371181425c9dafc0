"""Windows of user histories, grouped by length into padded batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .interactions import Sequences


@dataclass(frozen=True)
class Windows:
    """Pieces of training sequences that together hold every next-item target once.

    items  int32 [E], all training events, user by user
    start  int64 [M], first event of each window
    end    int64 [M], one past its last event; inputs are start … end - 2, targets start + 1 … end - 1
    """

    items: NDArray[np.int32]
    start: NDArray[np.int64]
    end: NDArray[np.int64]

    @classmethod
    def cut(cls, sequences: Sequences, history_length: int) -> "Windows":
        """Cuts long histories from their newest end, so that the newest targets have the longest context."""
        starts: list[NDArray[np.int64]] = []
        ends: list[NDArray[np.int64]] = []
        first, end = sequences.offsets[:-1].copy(), sequences.offsets[1:].copy()
        while len(end):
            start = np.maximum(first, end - history_length - 1)
            useful = end - start >= 2
            first, start, end = first[useful], start[useful], end[useful]
            starts.append(start)
            ends.append(end)
            end = start + 1
        return cls(sequences.items, np.concatenate(starts), np.concatenate(ends))

    def __len__(self) -> int:
        return int(self.start.size)


@dataclass(frozen=True)
class Batch:
    """Windows of like length, or one process's piece of them.

    history, target  int64 [B, T], padded with -1 on the left; target[b, t] follows history[b, t]
    items            int64 [I], different targets of the whole batch in a drawn order: a loss that compares items with
                     each other is the same however the batch is cut
    windows, targets how many of each the whole batch has; a loss is a sum over the piece, divided by one of these
    piece, pieces    which piece of how many this is
    """

    history: Tensor
    target: Tensor
    items: Tensor
    windows: int
    targets: int
    piece: int = 0
    pieces: int = 1

    @classmethod
    def whole(cls, history: Tensor, target: Tensor, rng: np.random.Generator) -> "Batch":
        """A batch in one piece; `rng` orders its items."""
        different = target[target >= 0].unique()
        items = different[torch.from_numpy(rng.permutation(len(different)))]
        return cls(history, target, items, len(history), int((target >= 0).sum()))

    def cut(self, piece: int, pieces: int) -> "Batch":
        """Every `pieces`-th window, from number `piece` on; a piece may have none."""
        rows = slice(piece, None, pieces)
        return replace(self, history=self.history[rows], target=self.target[rows], piece=piece, pieces=pieces)

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("history", "target", "items")}
        return replace(self, **moved)


def epoch(windows: Windows, batch_size: int, seed: int, number: int, skip: int = 0) -> Iterator[Batch]:
    """All windows once, in an order that depends on (seed, number) alone; a batch holds windows of like length.

    skip  batches left out at the beginning: those an interrupted epoch has already had
    """
    rng = np.random.default_rng((seed, number))
    order = rng.permutation(len(windows))
    pool = batch_size * 32
    groups: list[NDArray[np.int64]] = []
    for begin in range(0, len(order), pool):
        part = order[begin : begin + pool]
        by_length = part[np.argsort(windows.end[part] - windows.start[part], kind="stable")]
        groups += [by_length[place : place + batch_size] for place in range(0, len(by_length), batch_size)]
    for place, group in enumerate(rng.permutation(len(groups))):
        if place >= skip:
            yield Batch.whole(*_pad(windows, groups[group]), np.random.default_rng((seed, number, place)))


def batch_count(windows: Windows, batch_size: int) -> int:
    """Steps of one `epoch`."""
    pools, rest = divmod(len(windows), batch_size * 32)
    return pools * 32 + -(-rest // batch_size)


def _pad(windows: Windows, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    length = int((windows.end[chosen] - windows.start[chosen]).max()) - 1
    place = windows.end[chosen][:, None] - 1 - length + np.arange(length)
    inside = place >= windows.start[chosen][:, None]
    place = np.where(inside, place, 0)
    history = np.where(inside, windows.items[place], -1)
    target = np.where(inside, windows.items[np.minimum(place + 1, len(windows.items) - 1)], -1)
    return torch.from_numpy(history.astype(np.int64)), torch.from_numpy(target.astype(np.int64))


def pad_histories(histories: list[NDArray[np.int32]]) -> Tensor:
    """int64 [B, T] of the longest, padded with -1 on the left; at least one column."""
    length = max(1, max(len(history) for history in histories))
    padded = np.full((len(histories), length), -1, dtype=np.int64)
    for row, history in enumerate(histories):
        if len(history):
            padded[row, -len(history) :] = history
    return torch.from_numpy(padded)
