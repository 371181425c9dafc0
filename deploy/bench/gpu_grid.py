"""How fast a network searches on a device: every beam width, batch, precision, with captured graphs and without."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from models.graph import bucket_for, catalog_inputs, request_inputs
from service.engine.devices import CPU, CUDA, placement
from service.engine.gpu_search import GpuSearch
from service.engine.search import Shape

from ..errors import BenchError
from .bound_graph import BoundGraph
from .findings import Finding
from .gpu_folder import NETWORKS, Candidate, random_choices, random_rows
from .timing import interleaved, whole

HISTORY: Final = 20
GOALS_PER_S: Final = {"temporal": 100_000.0, "encoder_decoder": 20_000.0}
"""Requests a second at beam 50, and of the first one also the batch it has to be reached with."""
GOAL_BEAMS: Final = 50
STEP_GOAL_MS: Final = 0.03
_SECONDS: Final = 0.5
_LEAST_RUNS: Final = 5


@dataclass(frozen=True)
class Cell:
    """One shape, measured from rows to arrays of items; times in milliseconds.

    inside_ms  median from the copy in to the copy out
    per_s      requests a second, one batch after the other
    """

    network: str
    precision: str
    graphs: bool
    beams: int
    batch: int
    runs: int
    median_ms: float
    p99_ms: float
    inside_ms: float
    per_s: float

    def as_row(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        how = "graphs" if self.graphs else "launched"
        return (
            f"{self.network:<16} {self.precision} {how:<9} beam {self.beams:<3} batch {self.batch:<4} "
            f"{self.median_ms:8.3f} ms  p99 {self.p99_ms:8.3f} ms  inside {self.inside_ms:8.3f} ms  "
            f"{self.per_s:10,.0f}/s"
        )


def opened(
    candidate: Candidate, provider: str, precision: str, *, graphs: bool, beams: Sequence[int], most: int
) -> GpuSearch:
    """The search as the engine runs it; raises BenchError where graphs are wanted of CUDA and cannot be had."""
    models = candidate.models(precision, tuple(beams))
    search = GpuSearch(candidate.artifact, models=models, max_rows=most, graphs=graphs, provider=provider)
    if graphs and provider == CUDA and not search.residence.captures:
        raise BenchError(f"{candidate.name}, {precision}: {placed(search)}")
    return search


def placed(search: GpuSearch) -> str:
    """Where nodes are, in words. ONNX Runtime opens a session for capture only where no node that computes, and no copy
    between host and device, is left on the CPU; what it lists there is arithmetic of shapes."""
    session = next(iter(search.residence.sessions.values()))
    parts = []
    for provider, nodes in placement(session).items():
        named = f" ({', '.join(f'{count} {name}' for name, count in nodes.items())})" if provider == CPU else ""
        parts.append(f"{nodes.total()} nodes on {provider}{named if search.provider == CUDA else ''}")
    return f"{'; '.join(parts)}; captured: {'yes' if search.residence.captures else 'no'}"


def measure(candidate: Candidate, search: GpuSearch, precision: str, beams: int, batch: int) -> Cell:
    """Batches one after the other, until half a second has passed."""
    rows = random_rows(candidate.artifact, batch, HISTORY)
    shape = Shape(beams, bucket_for(HISTORY, candidate.artifact.manifest.history_buckets))
    for _ in range(2):  # captures, and fills caches
        search.run(rows, shape)
    outside: list[float] = []
    inside: list[float] = []
    ending = time.perf_counter() + _SECONDS
    while len(outside) < _LEAST_RUNS or time.perf_counter() < ending:
        started = time.perf_counter()
        found = search.run(rows, shape)
        outside.append(time.perf_counter() - started)
        inside.append(found.run_s)
    median = statistics.median(outside)
    return Cell(
        candidate.name, precision, search.residence.captures, beams, batch, len(outside), 1e3 * median,
        1e3 * float(np.quantile(outside, 0.99)), 1e3 * statistics.median(inside), batch / median,
    )  # fmt: skip


def rate_findings(cells: Sequence[Cell]) -> Iterator[Finding]:
    """The highest rate of every network at beam 50, in each precision."""
    for network in NETWORKS:
        goal = GOALS_PER_S.get(network)
        for precision in ("fp32", "fp16"):
            alike = [c for c in cells if (c.network, c.precision, c.beams) == (network, precision, GOAL_BEAMS)]
            if alike:
                best = max(alike, key=lambda cell: cell.per_s)
                detail = f"batch {best.batch}, {best.median_ms:.2f} ms"
                what = f"{network}, {precision}, beam {GOAL_BEAMS}, in the engine"
                yield Finding("rate", what, best.per_s, "/s", goal, detail=detail)


def selection_finding(candidate: Candidate, provider: str, beams: int, batch: int, rounds: int) -> Finding:
    """Trie and selection a step: the whole graph without the network alone, both bound and taking turns."""
    artifact = candidate.artifact
    config = artifact.manifest.config
    length = config.code_length
    rows = random_rows(artifact, batch, HISTORY)
    bucket = bucket_for(HISTORY, artifact.manifest.history_buckets)
    feed = catalog_inputs(artifact) | request_inputs(rows, bucket, length, 0.0)
    whole_graph = BoundGraph(artifact.graph_path(beams), feed, provider)
    network = BoundGraph(candidate.network_only, feed | random_choices(config, batch, beams), provider)
    times = interleaved({"graph": whole(whole_graph.run), "network": whole(network.run)}, rounds)
    step_ms = (times.ms("graph") - times.ms("network")) / length
    detail = f"graph {times.ms('graph'):.3f} ms, network alone {times.ms('network'):.3f} ms, {length} steps"
    what = f"{candidate.name}, beam {beams}, batch {batch}: trie and selection a step"
    return Finding("selection", what, step_ms, "ms", STEP_GOAL_MS, at_most=True, detail=detail)
