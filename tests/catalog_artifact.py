"""Artifacts with any metadata and no graphs, for tests of items and filters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact import Artifact, ArtifactWriter
from models.codes import CodeTable
from models.config import ModelConfig
from models.item_ids import ItemIds

CODE_LENGTH = 2
TOKENS_PER_LEVEL = 16


def catalog_artifact(folder: Path, metadata: Sequence[Mapping[str, Any]], version: str = "v1") -> Artifact:
    """Item n is called "item-n" unless its metadata has an item_id, and its code is (n // 16, n % 16)."""
    rows = [{"item_id": f"item-{number}", **row} for number, row in enumerate(metadata)]
    numbers = np.arange(len(rows))
    codes = CodeTable(
        np.stack([numbers // TOKENS_PER_LEVEL, numbers % TOKENS_PER_LEVEL], axis=1).astype(np.int32), TOKENS_PER_LEVEL
    )
    with ArtifactWriter(folder / version) as writer:
        writer.catalog(codes, ItemIds.build([row["item_id"] for row in rows]), rows)
        return writer.commit(
            config=ModelConfig(code_length=CODE_LENGTH, tokens_per_level=TOKENS_PER_LEVEL, width=8, heads=1),
            item_count=len(rows),
            beam_widths=(4,),
            default_beam_width=4,
            history_buckets=(50,),
            rescore_weight=0.0,
            dataset="none",
            training_fingerprint="0" * 64,
            metrics={},
            tools={},
        )
