"""From an artifact's folder to an engine that has proved itself: load, warm every shape, check the golden requests."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from msgspec.structs import replace as replace_info

from models.artifact import Artifact
from models.graph import Inputs, SearchRow
from service.catalog.items import LiveItems
from service.frames import EngineInfo
from service.quiet import Quietly, at_once
from service.settings import Settings, variable

from .catalog import Catalog
from .devices import CPU, CUDA, SearchError
from .fitness import usable_provider
from .golden import check_golden
from .gpu_search import GpuSearch
from .index import LiveIndex
from .live import LiveSearch
from .newcomers import Newcomers
from .precision import Graphs, graphs_of
from .search import CatalogSearch, GraphSearch, Shape

_FEW_FILTERS: Final = 16

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

    Raises SettingsError for what this machine cannot do, ModelError, PrecisionError, SearchError, GoldenError, or what
    ONNX Runtime raises for a broken graph.
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
    provider = usable_provider(settings.provider, settings.precision)
    graphs = quietly(partial(graphs_of, artifact, settings.precision, provider))
    # Not quietly: the threads that will search are started here, and have the priority of this one for good.
    graph = _open_search(artifact, settings, provider, graphs, index.inputs(index.state))
    newcomers = quietly(partial(Newcomers, artifact, items, index.tables))
    search = LiveSearch(graph, items, index, newcomers)
    info = _info(artifact, graph.provider, settings.precision, index.filter_slots)
    _tell_room(artifact.manifest.model_version, index)
    return Engine(Catalog(artifact, items, index), search, index.slot_count, info)


def _tell_room(version: str, index: LiveIndex) -> None:
    """A warning where there are so few slots that usual traffic compiles its filters again and again."""
    sentence = "model %s has room for %d compiled filters of %d bytes each"
    level = logging.INFO
    if index.filter_slots < _FEW_FILTERS:
        level = logging.WARNING
        sentence += f"; {variable('filter_cache_bytes')} makes room for more"
    logger.log(level, sentence, version, index.filter_slots, index.slot_bytes)


def _open_search(
    artifact: Artifact, settings: Settings, provider: str, graphs: Graphs, catalog: Inputs
) -> CatalogSearch:
    """On a GPU where there is one that works, or where settings insist."""
    if provider == CUDA:
        rows, capture = settings.max_batch_rows, settings.cuda_graphs
        try:
            return GpuSearch(artifact, catalog, models=graphs, max_rows=rows, graphs=capture)
        except SearchError as error:
            if settings.provider == "cuda" or settings.precision != "fp32":
                raise
            logger.warning("searching on the CPU: %s", error)
            graphs = graphs_of(artifact, settings.precision, CPU)
    return GraphSearch(artifact, settings.engine_threads, catalog, graphs)


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


def prove(artifact: Artifact, engine: Engine, settings: Settings) -> float:
    """Checks the golden requests; returns what share of their items comes back. Raises GoldenError."""
    least = None if settings.precision == "fp32" else settings.precision_overlap_percent / 100
    overlap = check_golden(artifact, engine.catalog, engine.search, least)
    version, precision = artifact.manifest.model_version, settings.precision
    logger.info("model %s in %s finds %.1f %% of its golden items", version, precision, 100 * overlap)
    return overlap


def _full_row(length: int) -> SearchRow:
    return SearchRow(np.zeros(length, dtype=np.int32))


def _info(artifact: Artifact, provider: str, precision: str, filter_slots: int) -> EngineInfo:
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
        filter_slots=filter_slots,
    )
