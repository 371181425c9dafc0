"""In which numbers a model computes: as it was exported, or converted when it is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from models.artifact import Artifact
from models.graph import Inputs, SearchRow, catalog_inputs, request_inputs

from .devices import CPU

Precision = Literal["fp32", "int8", "fp16"]
Graphs = Mapping[int, Path | bytes]
"""Beam width → the graph's file, or the graph itself."""


class PrecisionError(Exception):
    """The model cannot be had in the precision that is wanted, however often it is tried."""


def graphs_of(artifact: Artifact, precision: Precision, provider: str) -> Graphs:
    """The graph of every beam width, for ONNX Runtime's `provider`. Takes a second or two where they are converted.

    Raises PrecisionError where a package is missing, or the artifact has no golden requests to convert by.
    """
    path_of = artifact.cpu_graph_path if provider == CPU else artifact.graph_path
    paths = {width: path_of(width) for width in artifact.manifest.beam_widths}
    if precision == "fp32":
        return paths
    try:
        from .half_precision import half_precision
        from .int8 import in_8_bits
    except ImportError:
        raise PrecisionError(
            f"precision {precision} needs the package onnx: python -m pip install 'prorec-serve[int8]'"
        ) from None
    if precision == "fp16":
        return {width: half_precision(path) for width, path in paths.items()}
    searches = list(_golden_searches(artifact))
    if not searches:
        raise PrecisionError(f"model {artifact.manifest.model_version} has no golden requests to convert it by")
    return {width: in_8_bits(path, searches) for width, path in paths.items()}


def _golden_searches(artifact: Artifact) -> Iterator[Inputs]:
    """One search for each golden history, with everything allowed."""
    manifest, catalog = artifact.manifest, catalog_inputs(artifact)
    for golden in artifact.golden():
        found = artifact.item_ids.indices(golden["history"])
        row = SearchRow(found[found >= 0])
        length = min(len(row.history), manifest.history_buckets[-1])
        if length:
            yield catalog | request_inputs([row], length, manifest.config.code_length, manifest.rescore_weight)
