"""The engine as benchmarks call it: its own search class over a catalog of any size."""

import onnxruntime as ort

from models.artifact import Artifact
from models.graph import Inputs, bucket_for, request_inputs
from service.engine.precision import Graphs
from service.engine.search import Found, GraphSearch, Shape

from .catalogs import BenchCatalog


class EngineSearch:
    """Searches of random histories, ranked by code."""

    def __init__(self, artifact: Artifact, catalog: BenchCatalog, threads: int, graphs: Graphs | None = None) -> None:
        self._artifact, self._catalog = artifact, catalog
        self._search = GraphSearch(artifact, threads, catalog.inputs, graphs)

    def run(self, batch: int, beams: int, history: int) -> Found:
        """One batch, with everything the engine does from rows to arrays of items."""
        return self._search.run(self._catalog.rows(batch, history), self._shape(beams, history))

    def feed(self, batch: int, beams: int, history: int, first: int = 0) -> Inputs:
        """What the graph could ask for, of the catalog's histories from `first` on; it may not want all of it."""
        rows, bucket = self._catalog.rows(batch, history, first), self._shape(beams, history).bucket
        return self._catalog.inputs | request_inputs(rows, bucket, self._artifact.manifest.config.code_length, 0.0)

    def session(self, beams: int) -> ort.InferenceSession:
        """The engine's own session, so that what is compared with it runs under its options, whatever they become."""
        return self._search._sessions[beams]

    def _shape(self, beams: int, history: int) -> Shape:
        return Shape(beams, bucket_for(history, self._artifact.manifest.history_buckets))
