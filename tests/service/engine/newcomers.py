"""A small item encoder for the tiny artifact, so that items can be added to it; and records of such items."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.artifact import ITEM_ENCODER, MANIFEST, TEXT_ENCODER, TOKENIZER, Artifact
from service.catalog.records import ItemRecord

SEMANTIC_WIDTH = 5
ENCODER = "tests"
_INTEGRATED_WIDTH = 6


def with_item_encoder(artifact: Artifact, folder: Path) -> Artifact:
    """A copy of the artifact whose item encoder is three random matrices; it has no text encoder."""
    target = folder / artifact.manifest.model_version
    shutil.copytree(artifact.folder, target, ignore=shutil.ignore_patterns(TEXT_ENCODER, TOKENIZER))
    config, rng = artifact.manifest.config, np.random.default_rng(7)
    temporal = config.generator == "temporal"
    widths = {
        "integrated": _INTEGRATED_WIDTH,
        "item_output": config.width,
        "item_input": config.width if temporal else 0,
    }
    matrices = {name: rng.normal(size=(SEMANTIC_WIDTH, width)).astype(np.float32) for name, width in widths.items()}
    onnx.save_model(_graph(matrices), target / ITEM_ENCODER)
    shape = (config.code_length, config.tokens_per_level)
    np.save(target / "codebooks.npy", rng.normal(size=(*shape, _INTEGRATED_WIDTH)).astype(np.float32))
    np.save(target / "token_input.npy", rng.normal(size=(*shape, config.width)).astype(np.float32))
    manifest = json.loads((target / MANIFEST).read_text())
    manifest |= {"item_encoder": True, "semantic_width": SEMANTIC_WIDTH, "text_encoder": ENCODER}
    (target / MANIFEST).write_text(json.dumps(manifest))
    return Artifact.open(target, verify=False)


def _graph(matrices: dict[str, NDArray[np.float32]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["semantic", f"to_{name}"], [name]) for name in matrices],
        "item_encoder",
        [helper.make_tensor_value_info("semantic", TensorProto.FLOAT, ["M", SEMANTIC_WIDTH])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["M", m.shape[1]]) for n, m in matrices.items()],
        [numpy_helper.from_array(matrix, f"to_{name}") for name, matrix in matrices.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def added(
    item_id: str, *, seed: int = 0, available: bool = True, removed: bool = False, **metadata: object
) -> ItemRecord:
    """A record of an item that was added live."""
    embedding = np.random.default_rng([seed, *item_id.encode()]).normal(size=SEMANTIC_WIDTH).astype("<f4")
    return ItemRecord(
        item_id,
        1,
        available=available,
        removed=removed,
        item=None if removed else {"item_id": item_id, **metadata},
        embeddings={} if removed else {ENCODER: embedding.tobytes()},
    )
