"""Fills a folder for `deploy.bench.gpu` where torch and the exporter are; the GPU's machine needs neither."""

import shutil
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from models.artifact import Artifact
from service.engine.half_precision import half_precision
from training.interactions import leave_one_out, read_dataset

from ..errors import BenchError
from .gpu_folder import BEAMS, HISTORIES, NETWORK_ONLY, TRAINED, half_file, write_histories
from .networks import HISTORY_BUCKETS, NETWORKS, Prepared, prepare_network
from .variants import NetworkOnly

_ITEMS: Final = 10_000


def prepare_folder(target: Path, work: Path, trained: Path | None, data: Path | None, histories: int) -> None:
    """Writes `target` anew. `work` keeps exports from run to run; `trained` is an artifact that was trained on `data`.

    Raises BenchError where `data` holds none of the artifact's items, and what `read_dataset` raises.
    """
    shutil.rmtree(target, ignore_errors=True)
    for name in NETWORKS:
        config = NETWORKS[name]
        exported = prepare_network(name, config, work, items=_ITEMS, widths=BEAMS, buckets=HISTORY_BUCKETS)
        write_network(exported, target / name)
    if trained is not None and data is not None:
        _write_trained(Artifact.open(trained), data, target / TRAINED, histories)


def write_network(prepared: Prepared, folder: Path) -> None:
    """One network with all that is measured of it."""
    artifact = prepared.artifact
    only = prepared.variant("network_only", NetworkOnly(prepared.network).export)
    shutil.copytree(artifact.folder, folder / artifact.folder.name, ignore=shutil.ignore_patterns("variant_*"))
    onnx.save(only, folder / NETWORK_ONLY)
    for width in artifact.manifest.beam_widths:
        (folder / half_file(width)).write_bytes(half_precision(artifact.graph_path(width)))


def _write_trained(artifact: Artifact, data: Path, folder: Path, count: int) -> None:
    shutil.copytree(artifact.folder, folder / artifact.folder.name)
    for width in artifact.manifest.beam_widths:
        (folder / half_file(width)).write_bytes(half_precision(artifact.graph_path(width)))
    write_histories(folder / HISTORIES, user_histories(artifact, data, count))


def user_histories(artifact: Artifact, data: Path, count: int, seed: int = 0) -> list[NDArray[np.int32]]:
    """What users had done before an event, as item indices of the artifact; each user once, then at earlier events."""
    interactions = read_dataset(data)
    index, test = artifact.item_ids.indices(interactions.item_ids), leave_one_out(interactions).test
    order = np.random.default_rng(seed).permutation(len(test)).tolist()
    known = [index[test.history(user)] for user in order]
    known = [history[history >= 0] for history in known]
    found: list[NDArray[np.int32]] = []
    for back in range(max(map(len, known), default=0)):
        found += [history[: len(history) - back] for history in known if len(history) > back]
        if len(found) >= count:
            break
    if not found:
        raise BenchError(f"{data} has no history of items of {artifact.manifest.model_version}")
    return found[:count]
