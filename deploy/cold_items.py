"""How well items are found that joined the catalog after training."""

import csv
import gzip
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.interactions import EVENT_COLUMNS, INTERACTIONS_NAME, ITEMS_NAME, Interactions, read_dataset


def hold_out(interactions: Interactions, share: float, seed: int) -> NDArray[np.bool_]:
    """Which items stay out of training, bool [N]."""
    item_count = len(interactions.item_ids)
    cold = np.zeros(item_count, dtype=bool)
    chosen = np.random.default_rng(seed).choice(item_count, round(item_count * share), replace=False)
    cold[chosen] = True
    return cold


def write_without(interactions: Interactions, cold: NDArray[np.bool_], folder: Path) -> None:
    """A dataset folder without the rows and the events of the cold items."""
    folder.mkdir(parents=True)
    with _gzip_text(folder / f"{ITEMS_NAME}.gz") as stream:
        kept = (row for row, is_cold in zip(interactions.items, cold.tolist(), strict=True) if not is_cold)
        stream.writelines(json.dumps(row, allow_nan=False) + "\n" for row in kept)
    user = np.repeat(np.arange(len(interactions.user_ids)), np.diff(interactions.offsets))
    warm = np.flatnonzero(~cold[interactions.events])
    with _gzip_text(folder / f"{INTERACTIONS_NAME}.gz") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(EVENT_COLUMNS)
        for event in warm.tolist():
            item = interactions.item_ids[interactions.events[event]]
            writer.writerow((interactions.user_ids[user[event]], item, int(interactions.timestamps[event])))


def _gzip_text(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(gzip.GzipFile(path, "wb", mtime=0), encoding="utf-8", newline="")
