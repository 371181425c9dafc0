"""The engine in 8 bits against the same engine in float32: how much faster, and how much the answers change."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from service.engine.devices import CPU
from service.engine.int8 import in_8_bits
from service.engine.precision import Precision, graphs_of
from service.engine.search import GraphSearch, Shape, dead_class

from .catalogs import BenchCatalog
from .engine import EngineSearch
from .findings import Finding
from .gpu_folder import unseen_rows
from .networks import Prepared
from .timing import interleaved, whole

_PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "int8")
_BATCHES: Final = (1, 32)
_SCALES_FROM: Final = 16  # searches, as many as an artifact has golden requests
_K: Final = 10
_ROWS: Final = 32


def speed_findings(
    prepared: Prepared, catalog: BenchCatalog, beams: int, history: int, threads: int, rounds: int
) -> Iterator[Finding]:
    """Both in turn, each with everything the engine does from rows to items."""
    exact = EngineSearch(prepared.artifact, catalog, threads)
    searches = [exact.feed(1, beams, history, first=number) for number in range(_SCALES_FROM)]
    graphs = {beams: in_8_bits(prepared.artifact.cpu_graph_path(beams), searches)}
    engines = {"fp32": exact, "int8": EngineSearch(prepared.artifact, catalog, threads, graphs)}
    for batch in _BATCHES:
        calls = {
            name: whole(lambda engine=engine, batch=batch: engine.run(batch, beams, history))  # type: ignore[misc]
            for name, engine in engines.items()
        }
        times = interleaved(calls, rounds)
        ratios = times.ratios("fp32", "int8")
        detail = f"{times.ms('fp32'):.2f} / {times.ms('int8'):.2f} ms, {min(ratios):.3g}–{max(ratios):.3g}"
        what = f"{prepared.name}, int8 against fp32, batch {batch}"
        yield Finding("precision", what, times.ratio("fp32", "int8"), "×", detail=f"{detail} in {len(ratios)} rounds")


def trained_findings(
    artifact: Artifact, histories: Sequence[NDArray[np.int32]], threads: int, rounds: int
) -> Iterator[Finding]:
    """Of a trained model, on real histories (item indices): nothing that was seen may come back, as in a request."""
    passes = {precision: _Pass(artifact, histories, precision, threads) for precision in _PRECISIONS}
    exact, rounded = (each.run() for each in passes.values())
    common = np.array([np.isin(one, other).mean() for one, other in zip(exact, rounded, strict=True)])
    width = artifact.manifest.default_beam_width
    detail = f"{artifact.manifest.model_version}, {len(common)} real histories, beam {width}"
    yield Finding("precision", f"first {_K} items of int8 that fp32 has too", 100 * common.mean(), "%", detail=detail)
    yield Finding("precision", "… of the worst history", 100 * common.min(), "%", detail=detail)
    same = (exact[:, 0] == rounded[:, 0]).mean()
    yield Finding("precision", "histories with the same first item", 100 * same, "%", detail=detail)
    times = interleaved({name: whole(each.run) for name, each in passes.items()}, rounds)
    detail += f", batches of {_ROWS}"
    yield Finding("precision", "trained model, int8 against fp32", times.ratio("fp32", "int8"), "×", detail=detail)


class _Pass:
    """All histories through one artifact in one precision."""

    def __init__(
        self, artifact: Artifact, histories: Sequence[NDArray[np.int32]], precision: Precision, threads: int
    ) -> None:
        manifest = artifact.manifest
        graphs = graphs_of(artifact, precision, CPU)
        self._search = GraphSearch(artifact, threads, graphs=graphs)
        rows = unseen_rows(artifact, histories)
        dead = max(map(dead_class, rows))
        self._shape = Shape(manifest.default_beam_width, manifest.history_buckets[-1], dead=dead)
        self._batches = [rows[at : at + _ROWS] for at in range(0, len(rows), _ROWS)]

    def run(self) -> NDArray[np.int32]:
        """int32 [histories, 10]"""
        return np.concatenate([self._search.run(batch, self._shape).item[:, :_K] for batch in self._batches])
