"""Artifacts for tests of the store, which reads no graph: any bytes do, of any size."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact import MANIFEST, Artifact, ArtifactWriter
from models.codes import CodeTable
from models.config import ModelConfig
from models.item_ids import ItemIds
from service.store.records import CHUNK_BYTES

ITEMS = 8
SEVERAL_BATCHES = 5 * CHUNK_BYTES + 1


def plain_artifact(folder: Path, version: str = "v1", *, seed: int = 0, weights_bytes: int = 1000) -> Artifact:
    """Writes `folder`/`version`; the file `search.weights` has `weights_bytes` random bytes."""
    rng = np.random.default_rng(seed)
    tokens = rng.permutation(16)[:ITEMS]
    codes = CodeTable(np.stack([tokens // 4, tokens % 4], axis=1).astype(np.int32), tokens_per_level=4)
    with ArtifactWriter(folder / version) as writer:
        writer.catalog(codes, ItemIds.build([f"item-{n}" for n in range(ITEMS)]), [{"n": n} for n in range(ITEMS)])
        writer.golden([])
        (writer.folder / "search_b4.onnx").write_bytes(b"any bytes")
        (writer.folder / "empty.bin").write_bytes(b"")
        (writer.folder / "search.weights").write_bytes(rng.bytes(weights_bytes))
        return commit_plain(writer, ModelConfig(code_length=2, tokens_per_level=4, width=8, heads=1), ITEMS)


def commit_plain(writer: ArtifactWriter, config: ModelConfig, items: int) -> Artifact:
    """The end of writing, with a manifest in which nothing matters but sizes."""
    return writer.commit(
        config=config,
        item_count=items,
        beam_widths=(4,),
        default_beam_width=4,
        history_buckets=(50,),
        rescore_weight=0.0,
        dataset="random",
        training_fingerprint="0" * 64,
        metrics={"model": {"recall@10": 0.5}},
        tools={},
    )


def edit_manifest(artifact: Artifact, **fields: Any) -> Artifact:
    """Overwrites fields of the manifest on disk, whatever that makes of it."""
    path = artifact.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return artifact


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
