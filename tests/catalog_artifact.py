"""Artifacts with any metadata and no graphs, for tests of items and filters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact import Artifact, ArtifactWriter
from models.codes import CodeTable
from models.config import ModelConfig
from models.item_ids import ItemIds

TOKENS_PER_LEVEL = 16


def catalog_artifact(
    folder: Path,
    metadata: Sequence[Mapping[str, Any]],
    version: str = "v1",
    *,
    semantic_width: int = 0,
    codes: CodeTable | None = None,
    text_encoder: Mapping[str, bytes] | None = None,  # file name → content
) -> Artifact:
    """Item n is called "item-n" unless its metadata names it; its code is (n // 16, n % 16) unless codes are given."""
    rows = [{"item_id": f"item-{number}", **row} for number, row in enumerate(metadata)]
    codes = codes or _counted(len(rows))
    with ArtifactWriter(folder / version) as writer:
        writer.catalog(codes, ItemIds.build([row["item_id"] for row in rows]), rows)
        for name, data in (text_encoder or {}).items():
            (writer.folder / name).write_bytes(data)
        return writer.commit(
            config=ModelConfig(
                code_length=codes.code_length, tokens_per_level=codes.tokens_per_level, width=8, heads=1
            ),
            item_count=len(rows),
            beam_widths=(4,),
            default_beam_width=4,
            history_buckets=(50,),
            rescore_weight=0.0,
            item_encoder=semantic_width > 0,
            semantic_width=semantic_width,
            text_encoder="words" if text_encoder else None,
            dataset="none",
            training_fingerprint="0" * 64,
            metrics={},
            tools={},
        )


def _counted(items: int) -> CodeTable:
    numbers = np.arange(items)
    tokens = np.stack([numbers // TOKENS_PER_LEVEL, numbers % TOKENS_PER_LEVEL], axis=1)
    return CodeTable(tokens.astype(np.int32), TOKENS_PER_LEVEL)
