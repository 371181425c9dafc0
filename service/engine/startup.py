"""From an artifact's folder to an engine that has proved itself: load, warm every shape, check the golden requests."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact import Artifact
from models.graph import SearchRow
from service.catalog.items import LiveItems
from service.frames import Answer, EngineInfo, Query
from service.quiet import Quietly, at_once
from service.settings import Settings

from .catalog import Catalog, Place
from .index import LiveIndex
from .live import LiveSearch
from .newcomers import Newcomers
from .search import GraphSearch, Search, Shape

_TOLERANCE = 1e-3  # of a score, between the machine that exported and this one
_MISPLACED = 0.1  # share of a row's items that a near-tie at a beam's edge may exchange

logger = logging.getLogger(__name__)


class GoldenError(Exception):
    """The model does not answer as it did when it was exported."""


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
    quietly(partial(check_golden, artifact, engine.catalog, engine.search))
    return replace(engine, info=_info(artifact, engine.search.provider, loaded - started, time.monotonic() - loaded))


def assemble(artifact: Artifact, settings: Settings, quietly: Quietly = at_once) -> Engine:
    """An engine that is cold and unproved."""
    items = quietly(partial(LiveItems, artifact, settings.spare_items))
    index = quietly(
        partial(LiveIndex, artifact, spare_items=settings.spare_items, cache_bytes=settings.filter_cache_bytes)
    )
    # Not quietly: the threads that will search are started here, and have the priority of this one for good.
    graph = GraphSearch(artifact, settings.provider, settings.engine_threads, index.inputs(index.state))
    newcomers = quietly(partial(Newcomers, artifact, items, index.tables))
    search = LiveSearch(graph, items, index, newcomers)
    return Engine(Catalog(artifact, items, index), search, index.slot_count, _info(artifact, graph.provider, 0.0, 0.0))


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


def check_golden(artifact: Artifact, catalog: Catalog, search: Search) -> None:
    """Raises GoldenError unless the answers recorded at export come back."""
    for number, golden in enumerate(artifact.golden()):
        answer = _ask(catalog, search, golden, min(10, artifact.manifest.default_beam_width))
        if fault := _difference(answer, golden):
            version = artifact.manifest.model_version
            raise GoldenError(f"golden request {number} of model {version} has another answer here: {fault}")


def _full_row(length: int) -> SearchRow:
    return SearchRow(np.zeros(length, dtype=np.int32))


def _ask(catalog: Catalog, search: Search, golden: dict[str, Any], k: int) -> Answer:
    ticket = catalog.ticket(Query(0, golden["history"], k, deadline=0.0))
    if ticket.prepared.request.popular:
        return catalog.popular(ticket)
    found = search.run([ticket.prepared.row], ticket.prepared.shape)
    return catalog.answer(ticket, Place.of(found, 0))


def _difference(answer: Answer, golden: dict[str, Any]) -> str | None:
    items, scores = golden["items"], golden["scores"]
    if len(items) != len(answer.item_ids):
        return f"{len(answer.item_ids)} items instead of {len(items)}"
    expected = dict(zip(items, scores, strict=True))
    misplaced = [item for item in answer.item_ids if item not in expected]
    if len(misplaced) > _MISPLACED * len(items):
        return f"items {', '.join(misplaced)} do not belong there"
    for item, score in zip(answer.item_ids, answer.scores, strict=True):
        if abs(score - expected.get(item, score)) > _TOLERANCE * max(1.0, abs(score)):
            return f"item {item} scores {score:.4f} instead of {expected[item]:.4f}"
    return None


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
