"""From an artifact's folder to an engine that has proved itself: load, warm every shape, check the golden requests."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from msgspec.structs import replace as replace_info

from models.artifact import Artifact
from models.graph import SearchRow
from service.catalog.items import LiveItems
from service.frames import EngineInfo
from service.quiet import Quietly, at_once
from service.settings import Settings

from .catalog import Catalog
from .golden import check_golden
from .index import LiveIndex
from .live import LiveSearch
from .newcomers import Newcomers
from .precision import PrecisionError, graphs_of
from .search import CPU, GraphSearch, Search, Shape

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """Everything that serves one artifact, warm."""

    catalog: Catalog
    search: LiveSearch
    slot_count: int
    info: EngineInfo


def load(folder: Path, settings: Settings, tell: Callable[[str], None], quietly: Quietly) -> Engine:
    """`tell` hears of each stage as it begins.

    Raises ModelError, PrecisionError, SearchError, GoldenError or what ONNX Runtime raises for a broken graph.
    Checksums were verified when the artifact was fetched; here its arrays and its answers are.
    """
    started = time.monotonic()
    tell("verifying")
    artifact = Artifact.open(folder, verify=False)
    quietly(artifact.check)
    tell("loading")
    engine = assemble(artifact, settings, quietly)
    loaded = time.monotonic()
    tell("warming")
    quietly(partial(warm, artifact, engine.search, settings.max_batch_rows))
    overlap = quietly(partial(prove, artifact, engine, settings))
    info = replace_info(engine.info, golden_overlap=overlap, load_s=loaded - started, warm_s=time.monotonic() - loaded)
    return replace(engine, info=info)


def assemble(artifact: Artifact, settings: Settings, quietly: Quietly = at_once) -> Engine:
    """An engine that is cold and unproved."""
    items = quietly(partial(LiveItems, artifact, settings.spare_items))
    index = quietly(
        partial(LiveIndex, artifact, spare_items=settings.spare_items, cache_bytes=settings.filter_cache_bytes)
    )
    graphs = quietly(partial(graphs_of, artifact, settings.precision))
    # Not quietly: the threads that will search are started here, and have the priority of this one for good.
    graph = GraphSearch(artifact, settings.provider, settings.engine_threads, index.inputs(index.state), graphs)
    if settings.precision == "int8" and graph.provider != CPU:
        raise PrecisionError("precision int8 is the CPU's, and this engine has a GPU: set PROREC_PROVIDER=cpu")
    newcomers = quietly(partial(Newcomers, artifact, items, index.tables))
    search = LiveSearch(graph, items, index, newcomers)
    info = _info(artifact, graph.provider, settings.precision)
    return Engine(Catalog(artifact, items, index), search, index.slot_count, info)


def warm(artifact: Artifact, search: Search, max_rows: int) -> None:
    """Runs every pair of beam width and history bucket, and the largest of all with a full batch.

    The first run of a shape picks kernels and grows the arena; the full batch finds a lack of memory here and not in
    front of a user.
    """
    manifest = artifact.manifest
    for width in manifest.beam_widths:
        for bucket in manifest.history_buckets:
            search.run([_full_row(bucket)], Shape(width, bucket))
    largest = Shape(manifest.beam_widths[-1], manifest.history_buckets[-1])
    search.run([_full_row(largest.bucket)] * max_rows, largest)


def prove(artifact: Artifact, engine: Engine, settings: Settings) -> float:
    """Checks the golden requests; returns what share of their items comes back. Raises GoldenError."""
    least = None if settings.precision == "fp32" else settings.precision_overlap_percent / 100
    overlap = check_golden(artifact, engine.catalog, engine.search, least)
    version, precision = artifact.manifest.model_version, settings.precision
    logger.info("model %s in %s finds %.1f %% of its golden items", version, precision, 100 * overlap)
    return overlap


def _full_row(length: int) -> SearchRow:
    return SearchRow(np.zeros(length, dtype=np.int32))


def _info(artifact: Artifact, provider: str, precision: str) -> EngineInfo:
    manifest = artifact.manifest
    return EngineInfo(
        query_id=0,
        model_version=manifest.model_version,
        provider=provider,
        item_count=manifest.item_count,
        beam_widths=list(manifest.beam_widths),
        code_length=manifest.config.code_length,
        tokens_per_level=manifest.config.tokens_per_level,
        load_s=0.0,
        warm_s=0.0,
        pid=os.getpid(),
        precision=precision,
    )
