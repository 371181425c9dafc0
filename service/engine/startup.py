"""From an artifact's folder to an engine that has proved itself: load, warm every shape, check the golden requests."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from models.artifact import Artifact
from models.graph import Inputs, SearchRow
from service import metrics
from service.catalog.items import LiveItems
from service.frames import EngineInfo
from service.quiet import Quietly, at_once
from service.settings import Settings

from .catalog import Catalog
from .devices import CPU, CUDA, SearchError, choose_provider
from .golden import check_golden, check_overlap, golden_overlap
from .gpu_residence import Models
from .gpu_search import GpuSearch
from .half_precision import half_precision
from .index import LiveIndex
from .live import LiveSearch
from .newcomers import Newcomers
from .search import CatalogSearch, GraphSearch, Shape

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

    Raises ModelError, SearchError, GoldenError or what ONNX Runtime raises for a broken graph. Checksums were
    verified when the artifact was fetched; here its arrays and its answers are.
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
    quietly(partial(prove, artifact, engine, settings))
    return replace(engine, info=_info(artifact, engine.search.provider, loaded - started, time.monotonic() - loaded))


def assemble(artifact: Artifact, settings: Settings, quietly: Quietly = at_once) -> Engine:
    """An engine that is cold and unproved."""
    items = quietly(partial(LiveItems, artifact, settings.spare_items))
    index = quietly(
        partial(LiveIndex, artifact, spare_items=settings.spare_items, cache_bytes=settings.filter_cache_bytes)
    )
    # Not quietly: the threads that will search are started here, and have the priority of this one for good.
    graph = _open_search(artifact, settings, index.inputs(index.state))
    newcomers = quietly(partial(Newcomers, artifact, items, index.tables))
    search = LiveSearch(graph, items, index, newcomers)
    return Engine(Catalog(artifact, items, index), search, index.slot_count, _info(artifact, graph.provider, 0.0, 0.0))


def _open_search(artifact: Artifact, settings: Settings, catalog: Inputs) -> CatalogSearch:
    """On a GPU where there is one that works, or where settings insist."""
    if choose_provider(settings.provider) == CUDA:
        models = _half_models(artifact) if settings.gpu_precision == "fp16" else None
        rows, graphs = settings.max_batch_rows, settings.cuda_graphs
        try:
            return GpuSearch(artifact, catalog, models=models, max_rows=rows, graphs=graphs)
        except SearchError as error:
            if settings.provider == "cuda":
                raise
            logger.warning("searching on the CPU: %s", error)
    return GraphSearch(artifact, settings.engine_threads, catalog)


def _half_models(artifact: Artifact) -> Models:
    return {width: half_precision(artifact.graph_path(width)) for width in artifact.manifest.beam_widths}


def warm(artifact: Artifact, search: LiveSearch, max_rows: int) -> None:
    """Runs every pair of beam width and history bucket, and the largest of all with a full batch.

    The first run of a shape picks kernels and grows the arena, and on a GPU is when it is captured; the full batch
    finds a lack of memory here and not in front of a user.
    """
    manifest = artifact.manifest
    for width in manifest.beam_widths:
        for bucket in manifest.history_buckets:
            for rows in search.warm_rows:
                search.run([_full_row(bucket)] * rows, Shape(width, bucket))
    largest = Shape(manifest.beam_widths[-1], manifest.history_buckets[-1])
    search.run([_full_row(largest.bucket)] * max_rows, largest)


def prove(artifact: Artifact, engine: Engine, settings: Settings) -> None:
    """Raises GoldenError unless the golden requests are answered as they must be, or nearly, as settings allow."""
    if engine.search.provider == CPU or settings.gpu_precision == "fp32":
        check_golden(artifact, engine.catalog, engine.search)
        return
    overlap = golden_overlap(artifact, engine.catalog, engine.search)
    metrics.PRECISION_OVERLAP.set(overlap)
    logger.info("in %s %.1f %% of the golden answers' items come back", settings.gpu_precision, 100 * overlap)
    check_overlap(overlap, settings.min_overlap_percent, settings.gpu_precision)


def _full_row(length: int) -> SearchRow:
    return SearchRow(np.zeros(length, dtype=np.int32))


def _info(artifact: Artifact, provider: str, load_s: float, warm_s: float) -> EngineInfo:
    manifest = artifact.manifest
    return EngineInfo(
        query_id=0,
        model_version=manifest.model_version,
        provider=provider,
        item_count=manifest.item_count,
        beam_widths=list(manifest.beam_widths),
        code_length=manifest.config.code_length,
        tokens_per_level=manifest.config.tokens_per_level,
        load_s=load_s,
        warm_s=warm_s,
        pid=os.getpid(),
    )
