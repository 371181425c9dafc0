"""A dataset with a rule to learn: users walk along a ring of items, so the next item is the next on the ring."""

import csv
import json
from pathlib import Path

import numpy as np

ITEMS = 40


def write_ring(folder: Path, users: int = 120, seed: int = 0, *, change_held_out: bool = False) -> Path:
    """A dataset folder; with `change_held_out` every user's last two events are other items at the same times."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    with (folder / "interactions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user_id", "item_id", "timestamp"])
        for user in range(users):
            length = int(rng.integers(5, 12))
            walk = (rng.integers(ITEMS) + np.arange(length)) % ITEMS
            if change_held_out:
                walk[-2:] = (walk[-2:] + 13) % ITEMS
            writer.writerows([f"u{user}", f"i{item}", 1000 * user + place] for place, item in enumerate(walk.tolist()))
    rows = [{"item_id": f"i{item}", "title": f"Thing {item}", "part": item // 10} for item in range(ITEMS)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_text_embeddings(path: Path) -> Path:
    """Neighbours on the ring have like embeddings, as like texts would; float32 [40, 8]."""
    angle = 2 * np.pi * np.arange(ITEMS) / ITEMS
    waves = [wave(order * angle) for order in (1, 2, 3, 4) for wave in (np.sin, np.cos)]
    np.save(path, np.stack(waves, axis=1).astype(np.float32))
    return path


def ring_settings(text: Path) -> list[str]:
    """Overrides of the quickstart preset that train in a second or two."""
    return [
        f"text_encoder={text}",
        "model.width=32",
        "model.feed_forward=64",
        "model.history_length=12",
        "model.tokens_per_level=8",
        "model.code_length=2",
        "model.dropout=0.0",
        "model.encoder_layers=1",
        "stage1.epochs=12",
        "stage1.batch_size=16",
        "stage2.epochs=6",
        "stage2.batch_size=16",
        "beam_widths=20",
        "default_beam_width=20",
        "sasrec=",
    ]
