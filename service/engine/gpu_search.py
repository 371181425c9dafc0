"""The exported search graphs on a GPU: nothing is copied or launched one by one where it can be replayed.

A batch is padded to one of few sizes, written into the buffers of its shape, and searched by replaying the CUDA graph
that was captured when the shape came first. A captured graph belongs to the thread that captured it, so all runs are
those of one thread of this search; others bring changes of the catalog, but not while a graph is being captured.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.artifact import Artifact
from models.graph import Inputs, SearchRow, catalog_inputs

from .devices import CUDA, placement
from .gpu_residence import Residence
from .gpu_shapes import BatchShape, GraphIds, batch_sizes
from .parts import PartThreads
from .precision import Graphs, graphs_of
from .search import SPARE_DEAD, Found, Shape, found

logger = logging.getLogger(__name__)


class GpuSearch:
    """The search graphs of one artifact in a GPU's memory. `run` belongs to one thread at a time."""

    def __init__(
        self,
        artifact: Artifact,
        catalog: Inputs | None = None,
        *,
        models: Graphs | None = None,
        max_rows: int = 64,
        graphs: bool = True,
        provider: str = CUDA,
    ) -> None:
        """Loads every graph and the catalog.

        `catalog` is what `bind` is given; None: the catalog as the artifact has it. `models` are graphs to run instead
        of the artifact's, one a beam width. `max_rows`: larger batches run, but each size anew. `graphs`: capture.
        With `provider` CPU the same buffers and the same binding are used in memory of this process.

        Raises SearchError when there is no GPU that works.
        """
        manifest = artifact.manifest
        self._config, self._rescore_weight = manifest.config, manifest.rescore_weight
        self._models = models or graphs_of(artifact, "fp32", CUDA)
        self._graphs, self.provider = graphs, provider
        self.warm_rows = batch_sizes(max_rows)
        self._thread = PartThreads[Any](1)
        self._capturing = threading.Lock()
        self._inputs = dict(catalog_inputs(artifact) if catalog is None else catalog)
        self._residence, self._ids = self._move(), self._fresh_ids()
        for width, session in self._residence.sessions.items():
            placed = {name: nodes.total() for name, nodes in placement(session).items()}
            logger.info("beam width %d: nodes by provider %s, captured: %s", width, placed, self._residence.captures)

    @property
    def residence(self) -> Residence:
        """What lies on the device now."""
        return self._residence

    def bind(self, inputs: Inputs) -> Callable[[], None]:
        """Brings inputs of the catalog to the device, from any thread; what is returned puts them in use.

        They are written into the memory that sessions and captured graphs read. Where they do not fit, sessions for a
        larger catalog are opened, and shapes are captured anew as they come.
        """
        self._inputs |= inputs
        with self._capturing:
            if self._residence.catalog.fits(inputs):
                return self._residence.catalog.stage(inputs)
            moved = self._move()

        def use() -> None:
            self._residence, self._ids = moved, self._fresh_ids()

        return use

    def send_slots(self, counts: Sequence[NDArray[np.int32]], slots: Sequence[int]) -> None:
        """Brings the counts of some filter slots, int32 [F, S_{l+1}] a level, which no search may be reading now."""
        with self._capturing:
            self._residence.catalog.send_slots(counts, slots)

    def send_rows(self, tables: Inputs, rows: Sequence[int]) -> None:
        """Brings some rows of arrays that `bind` was given, and no more: an item is little, a catalog gigabytes."""
        with self._capturing:
            self._residence.catalog.send_rows(tables, rows)

    def run(self, rows: Sequence[SearchRow], shape: Shape) -> Found:
        outputs, run_s = self._thread.elsewhere(partial(self._search, rows, shape))
        return found(outputs, run_s)

    def _search(self, rows: Sequence[SearchRow], shape: Shape) -> tuple[list[NDArray[Any]], float]:
        size = next((size for size in self.warm_rows if size >= len(rows)), len(rows))
        batch = self._residence.batch(BatchShape(shape.width, shape.bucket, size, shape.dead), self._ids)
        weight = self._rescore_weight if shape.rescore else 0.0
        # CUDA breaks a capture off when another thread allocates or copies meanwhile.
        with self._capturing if batch.captures_next else nullcontext():
            return batch.run(rows, weight)

    def _move(self) -> Residence:
        return Residence(self._models, self._config, self._inputs, self.provider, graphs=self._graphs)

    @staticmethod
    def _fresh_ids() -> GraphIds:
        return GraphIds(longest_dead=SPARE_DEAD)
